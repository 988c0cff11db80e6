//! `tumble`, `hop` and `session` in FROM: a table whose rows also have the window that they are in.

use std::sync::Arc;

use arrow::datatypes::{DataType, IntervalMonthDayNano};
use datafusion_common::{Column, Result, ScalarValue, plan_err};
use datafusion_expr::planner::{
    PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning,
};
use datafusion_expr::{
    Expr, ExprFunctionExt, ExprSchemable, Extension, LogicalPlan, LogicalPlanBuilder, cast, lit,
};
use datafusion_functions::datetime::expr_fn::date_bin;
use datafusion_sql::sqlparser::ast::{
    Expr as SqlExpr, FunctionArg, FunctionArgExpr, Ident, ObjectName, TableAlias, TableFactor,
};

use super::hop::hop_starts;
use super::session::{session_end, session_start};
use super::unnest::UnnestRows;

/// Most windows of `hop` that a row can be in.
const HOPS_MAX: i64 = 10_000;
const NANOSECONDS_PER_DAY: i128 = 86_400_000_000_000;
const NANOSECONDS_PER_SECOND: i64 = 1_000_000_000;

/// The columns that such a table has behind its own.
pub const COLUMNS: [&str; 2] = ["window_start", "window_end"];

/// Plans the window functions in FROM.
#[derive(Debug)]
pub struct WindowTablePlanner;

impl RelationPlanner for WindowTablePlanner {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let (name, args, alias) = match relation {
            TableFactor::Table { name, args: Some(args), alias, .. }
                if kind_of(&name).is_some() =>
            {
                (name, args.args, alias)
            }
            TableFactor::Function { name, args, alias, .. } if kind_of(&name).is_some() => {
                (name, args, alias)
            }
            other => return Ok(RelationPlanning::Original(Box::new(other))),
        };
        let Some(kind) = kind_of(&name) else { return plan_err!("{name} is no window") };
        let windows = WindowTableCall::parse(kind, args, context)?;
        let plan = windows.plan()?;
        let alias = alias.or(Some(windows.alias));
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum WindowTableKind {
    Tumble,
    Hop,
    Session,
}

fn kind_of(name: &ObjectName) -> Option<WindowTableKind> {
    let [part] = name.0.as_slice() else { return None };
    match super::names::fold(part.as_ident()?).as_str() {
        "tumble" => Some(WindowTableKind::Tumble),
        "hop" => Some(WindowTableKind::Hop),
        "session" => Some(WindowTableKind::Session),
        _ => None,
    }
}

/// The table that a call of a window reads.
pub fn table_of(relation: &TableFactor) -> Option<&Ident> {
    let (name, args) = match relation {
        TableFactor::Table { name, args: Some(args), .. } => (name, &args.args),
        TableFactor::Function { name, args, .. } => (name, args),
        _ => return None,
    };
    kind_of(name)?;
    match args.first()? {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(SqlExpr::Identifier(table))) => Some(table),
        _ => None,
    }
}

/// A call, taken apart.
struct WindowTableCall {
    kind: WindowTableKind,
    input: LogicalPlan,
    time: Expr,
    time_type: DataType,
    /// Slide and size, size alone, or the gap.
    intervals: Vec<IntervalMonthDayNano>,
    keys: Vec<Expr>,
    alias: TableAlias,
}

impl WindowTableCall {
    fn parse(
        kind: WindowTableKind,
        args: Vec<FunctionArg>,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<Self> {
        let usage = match kind {
            WindowTableKind::Tumble => "tumble(table, time_column, size [, offset])",
            WindowTableKind::Hop => "hop(table, time_column, slide, size [, offset])",
            WindowTableKind::Session => "session(table, time_column, gap, key_column, …)",
        };
        let mut exprs = Vec::new();
        for arg in args {
            match arg {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => exprs.push(expr),
                other => return plan_err!("{other} is no argument of {usage}"),
            }
        }
        let mut exprs = exprs.into_iter();
        let (Some(SqlExpr::Identifier(table)), Some(time)) = (exprs.next(), exprs.next()) else {
            return plan_err!("{usage} takes the name of a table or view, and a column of it");
        };
        let input = context.plan(table_named(&table))?;
        let input = LogicalPlanBuilder::from(input).build()?;
        let schema = input.schema().as_ref().clone();
        let time = context.sql_to_expr(time, &schema)?;
        let time_type = time.get_type(&schema)?;
        if !matches!(time_type, DataType::Timestamp(..)) {
            return plan_err!("the time of {usage} is a TIMESTAMP, found {time_type}");
        }
        let wanted = match kind {
            WindowTableKind::Tumble => 1..=2,
            WindowTableKind::Hop => 2..=3,
            WindowTableKind::Session => 1..=1,
        };
        let mut intervals = Vec::new();
        let mut keys = Vec::new();
        for expr in exprs {
            let expr = context.sql_to_expr(expr, &schema)?;
            match interval(&expr) {
                Some(interval) => intervals.push(interval),
                None if kind == WindowTableKind::Session && matches!(expr, Expr::Column(_)) => {
                    keys.push(expr);
                }
                None => return plan_err!("{expr} is no INTERVAL: {usage}"),
            }
        }
        if !wanted.contains(&intervals.len()) {
            return plan_err!("{usage} is what is expected");
        }
        let name = context.normalize_ident(table);
        let alias =
            TableAlias { explicit: true, name: Ident::new(name), columns: Vec::new(), at: None };
        Ok(WindowTableCall { kind, input, time, time_type, intervals, keys, alias })
    }

    fn plan(&self) -> Result<LogicalPlan> {
        let present = self.time.clone().is_not_null();
        let input = LogicalPlanBuilder::from(self.input.clone()).filter(present)?;
        match (self.kind, self.intervals.as_slice()) {
            (WindowTableKind::Tumble, [size, offset @ ..]) => {
                positive(size)?;
                let start = self.binned(size, offset.first());
                self.finish(input.build()?, start, |start| start + literal(size))
            }
            (WindowTableKind::Hop, [slide, size, offset @ ..]) => {
                self.hop(input.build()?, slide, size, offset.first())
            }
            (_, [gap, ..]) => {
                positive(gap)?;
                if gap.months != 0 {
                    return plan_err!("the gap of a session is in days or less");
                }
                let over = |call: Expr, name: &str| -> Result<Expr> {
                    let order = vec![self.time.clone().sort(true, false)];
                    let call = call.partition_by(self.keys.clone()).order_by(order).build()?;
                    Ok(call.alias(name))
                };
                let start = session_start(self.time.clone(), literal(gap));
                let end = session_end(self.time.clone(), literal(gap));
                let calls = vec![over(start, "window_start")?, over(end, "window_end")?];
                input.window(calls)?.build()
            }
            _ => plan_err!("a window has a size"),
        }
    }

    /// The beginning of the interval of this size that the time is in.
    fn binned(&self, size: &IntervalMonthDayNano, offset: Option<&IntervalMonthDayNano>) -> Expr {
        let epoch = lit(ScalarValue::TimestampNanosecond(Some(0), None));
        let origin = match offset {
            Some(offset) => epoch + literal(offset),
            None => epoch,
        };
        let time = match &self.time_type {
            // Bins are of the clock in UTC.
            DataType::Timestamp(unit, Some(_)) => {
                cast(self.time.clone(), DataType::Timestamp(*unit, None))
            }
            _ => self.time.clone(),
        };
        date_bin(literal(size), time, origin)
    }

    fn hop(
        &self,
        input: LogicalPlan,
        slide: &IntervalMonthDayNano,
        size: &IntervalMonthDayNano,
        offset: Option<&IntervalMonthDayNano>,
    ) -> Result<LogicalPlan> {
        positive(slide)?;
        positive(size)?;
        if slide.months != 0 || size.months != 0 {
            return plan_err!("hop takes a slide and a size in days or less");
        }
        let (slide_ns, size_ns) = (nanoseconds(slide), nanoseconds(size));
        let count = (size_ns + slide_ns - 1) / slide_ns;
        if count > i128::from(HOPS_MAX) {
            return plan_err!("each row would be in {count} windows, {HOPS_MAX} are allowed");
        }
        let (Ok(slide_ns), Ok(size_ns)) = (i64::try_from(slide_ns), i64::try_from(size_ns)) else {
            return plan_err!("the size of hop is out of range");
        };
        if slide_ns.checked_mul(count as i64).is_none() {
            return plan_err!("the size of hop is out of range");
        }
        let starts = hop_starts(self.binned(slide, offset), slide_ns, count as i64);
        // Days are 24 hours here, and numbers are added more quickly than what a calendar knows.
        let length = lit(ScalarValue::DurationNanosecond(Some(size_ns)));
        let rows = UnnestRows::over(input, starts, "__start")?;
        let rows = LogicalPlan::Extension(Extension { node: Arc::new(rows) });
        let start = Expr::Column(Column::new_unqualified("__start"));
        let mut rows = LogicalPlanBuilder::from(rows);
        // Where the size is so many slides, the first window that is made has not ended yet. (Of times
        // with fewer digits than the slide it may have.)
        let whole =
            |interval: &IntervalMonthDayNano| interval.nanoseconds % NANOSECONDS_PER_SECOND == 0;
        let all_whole = whole(slide) && whole(size) && offset.is_none_or(whole);
        if !all_whole || size_ns % slide_ns != 0 {
            let end = self.in_type(start.clone() + length.clone());
            rows = rows.filter(end.gt(self.time.clone()))?;
        }
        self.finish(rows.build()?, start, |start| start + length)
    }

    fn in_type(&self, time: Expr) -> Expr {
        cast(time, self.time_type.clone())
    }

    fn finish(
        &self,
        rows: LogicalPlan,
        start: Expr,
        end: impl FnOnce(Expr) -> Expr,
    ) -> Result<LogicalPlan> {
        let own = self.input.schema().columns().into_iter().map(Expr::Column);
        let bounds = [
            self.in_type(start.clone()).alias("window_start"),
            self.in_type(end(start)).alias("window_end"),
        ];
        LogicalPlanBuilder::from(rows).project(own.chain(bounds).collect::<Vec<_>>())?.build()
    }
}

fn table_named(name: &Ident) -> TableFactor {
    TableFactor::Table {
        name: ObjectName::from(vec![name.clone()]),
        alias: None,
        args: None,
        with_hints: Vec::new(),
        version: None,
        with_ordinality: false,
        partitions: Vec::new(),
        json_path: None,
        sample: None,
        index_hints: Vec::new(),
    }
}

fn literal(interval: &IntervalMonthDayNano) -> Expr {
    lit(ScalarValue::IntervalMonthDayNano(Some(*interval)))
}

fn interval(expr: &Expr) -> Option<IntervalMonthDayNano> {
    let value = match expr {
        Expr::Literal(value, _) => value.clone(),
        Expr::Cast(inner) => match inner.expr.as_ref() {
            Expr::Literal(value, _) => value.clone(),
            _ => return None,
        },
        _ => return None,
    };
    let wanted = DataType::Interval(arrow::datatypes::IntervalUnit::MonthDayNano);
    match value.cast_to(&wanted).ok()? {
        ScalarValue::IntervalMonthDayNano(interval) => interval,
        _ => None,
    }
}

fn nanoseconds(interval: &IntervalMonthDayNano) -> i128 {
    i128::from(interval.days) * NANOSECONDS_PER_DAY + i128::from(interval.nanoseconds)
}

fn positive(interval: &IntervalMonthDayNano) -> Result<()> {
    if interval.months < 0 || nanoseconds(interval) < 0 || *interval == IntervalMonthDayNano::ZERO {
        return plan_err!("the size of a window is more than nothing");
    }
    Ok(())
}
