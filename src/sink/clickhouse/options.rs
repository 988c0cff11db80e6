//! The options that a view has for ClickHouse: `order_by`, `partition_by`, `ttl`.
//!
//! `partition_by` and `ttl` go to ClickHouse as they are. They are expressions over columns of the
//! sorting key only: anything else would bring deleted rows back. A function that is not known here
//! is refused, so that `check` says what ClickHouse would say only when the view's table is made.

use std::ops::ControlFlow;

use datafusion_sql::sqlparser::ast::{
    BinaryOperator, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, Visit, Visitor,
};
use datafusion_sql::sqlparser::dialect::GenericDialect;
use datafusion_sql::sqlparser::parser::Parser;

use crate::model::schema::{SqlField, SqlType};
use crate::model::sink::{InvalidOption, SinkKind};
use crate::model::view::ViewSchema;

use super::table::{VALID_FROM_COLUMN, VALID_TO_COLUMN};

/// The name of this kind of sink.
pub const NAME: &str = "clickhouse";
const ORDER_BY: &str = "order_by";
const PARTITION_BY: &str = "partition_by";
pub(super) const TTL: &str = "ttl";

/// The options of ClickHouse in query files.
#[derive(Debug)]
pub struct ClickHouseKind;

/// The only one.
pub const KIND: ClickHouseKind = ClickHouseKind;

impl SinkKind for ClickHouseKind {
    fn name(&self) -> &'static str {
        NAME
    }

    fn options(&self) -> &'static [&'static str] {
        &[ORDER_BY, PARTITION_BY, TTL]
    }

    fn check(&self, view: &ViewSchema) -> Result<(), InvalidOption> {
        let named = |name: &str| view.columns.iter().any(|column| column.name == name);
        if view.history
            && let Some(taken) = [VALID_FROM_COLUMN, VALID_TO_COLUMN].into_iter().find(|n| named(n))
        {
            let message =
                format!("column {taken} has a name that history needs: rename it with AS");
            return Err(invalid(message));
        }
        ClickHouseOptions::of(view).map(drop)
    }
}

fn invalid(message: impl Into<String>) -> InvalidOption {
    InvalidOption(message.into())
}

/// A view's options, checked.
#[derive(Clone, Debug, Default)]
pub(super) struct ClickHouseOptions {
    /// Indexes of the columns that lead the sorting key; the key's columns follow.
    pub(super) order_by: Vec<usize>,
    /// An expression over columns of the sorting key.
    pub(super) partition_by: Option<String>,
    /// An expression over columns of the sorting key.
    pub(super) ttl: Option<String>,
}

impl ClickHouseOptions {
    /// The options of this view.
    pub(super) fn of(view: &ViewSchema) -> Result<Self, InvalidOption> {
        let given =
            |name: &str| view.sinks.get(NAME).and_then(|options| options.get(name)).cloned();
        let index_of = |name: &str| {
            view.columns.iter().position(|column| column.name == name).ok_or_else(|| {
                let view = &view.name;
                invalid(format!(
                    "option {ORDER_BY} names column {name}, which {view} does not have"
                ))
            })
        };
        let order_by = given(ORDER_BY).unwrap_or_default();
        let names = order_by.split(',').map(str::trim).filter(|name| !name.is_empty());
        let order_by = names.map(index_of).collect::<Result<Vec<_>, _>>()?;
        let (partition_by, ttl) = (given(PARTITION_BY), given(TTL));
        let sorting: Vec<usize> =
            order_by.iter().chain(view.key.iter().flatten()).copied().collect();
        let option = |name| ExpressionOption { name, columns: &view.columns, sorting: &sorting };
        partition_by.as_ref().map_or(Ok(()), |text| option(PARTITION_BY).partition(text))?;
        ttl.as_ref().map_or(Ok(()), |text| option(TTL).ttl(text))?;
        Ok(ClickHouseOptions { order_by, partition_by, ttl })
    }
}

/// The column that an identifier means: as written in quotes, in lower case without.
fn fold(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

/// Functions of a point in time, which is their first argument.
const OF_TIME: [&str; 25] = [
    "toYYYYMM",
    "toYYYYMMDD",
    "toYear",
    "toQuarter",
    "toMonth",
    "toISOWeek",
    "toISOYear",
    "toDayOfMonth",
    "toDayOfWeek",
    "toDayOfYear",
    "toHour",
    "toMonday",
    "toStartOfYear",
    "toStartOfISOYear",
    "toStartOfQuarter",
    "toStartOfMonth",
    "toStartOfWeek",
    "toStartOfDay",
    "toStartOfHour",
    "toStartOfInterval",
    "toLastDayOfMonth",
    "toUnixTimestamp",
    "dateTrunc",
    "toRelativeDayNum",
    "toRelativeMonthNum",
];
/// Functions of a point in time and a number.
const MOVING_TIME: [&str; 12] = [
    "addMinutes",
    "addHours",
    "addDays",
    "addWeeks",
    "addMonths",
    "addYears",
    "subtractMinutes",
    "subtractHours",
    "subtractDays",
    "subtractWeeks",
    "subtractMonths",
    "subtractYears",
];
/// Functions of numbers.
const OF_NUMBERS: [&str; 8] =
    ["intDiv", "modulo", "positiveModulo", "floor", "ceil", "round", "abs", "intHash64"];
/// Functions of anything.
const OF_ANYTHING: [&str; 24] = [
    "cityHash64",
    "sipHash64",
    "xxHash64",
    "murmurHash3_64",
    "tuple",
    "toString",
    "toDate",
    "toDate32",
    "toDateTime",
    "toDateTime64",
    "toInt32",
    "toInt64",
    "toUInt32",
    "toUInt64",
    "lower",
    "upper",
    "left",
    "substring",
    "length",
    "if",
    "multiIf",
    "coalesce",
    "ifNull",
    "assumeNotNull",
];
/// Functions that make an interval of a number.
const INTERVALS: [&str; 6] = [
    "toIntervalMinute",
    "toIntervalHour",
    "toIntervalDay",
    "toIntervalWeek",
    "toIntervalMonth",
    "toIntervalYear",
];

/// An option's expression and the view that it is for.
struct ExpressionOption<'a> {
    /// `partition_by` or `ttl`.
    name: &'static str,
    /// The view's columns.
    columns: &'a [SqlField],
    /// Indexes of the columns of the sorting key.
    sorting: &'a [usize],
}

impl ExpressionOption<'_> {
    /// Checks `partition_by`.
    fn partition(&self, text: &str) -> Result<(), InvalidOption> {
        let expr = self.parse(text)?;
        self.check(&expr, false)
    }

    /// Checks `ttl`: a point in time, without NULL, and how long after it the row stays.
    fn ttl(&self, text: &str) -> Result<(), InvalidOption> {
        let expr = self.parse(text)?;
        self.check(&expr, true)?;
        let is_time = match &expr {
            Expr::BinaryOp { left, op: BinaryOperator::Plus | BinaryOperator::Minus, right } => {
                self.is_time(left) && is_interval(right)
            }
            expr => self.is_time(expr),
        };
        match is_time {
            true => Ok(()),
            false => Err(invalid(format!(
                "{} is no point in time: write a DATE or TIMESTAMP column and how long after it the \
                 row stays, `day + INTERVAL 90 DAY`",
                self.name
            ))),
        }
    }

    fn parse(&self, text: &str) -> Result<Expr, InvalidOption> {
        let dialect = GenericDialect {};
        let wrong = |error| invalid(format!("{} is not an expression: {error}", self.name));
        let mut parser = Parser::new(&dialect).try_with_sql(text).map_err(wrong)?;
        let expr = parser.parse_expr().map_err(wrong)?;
        let rest = parser.peek_token().to_string();
        match rest.as_str() {
            "EOF" => Ok(expr),
            _ => Err(invalid(format!("{} is one expression: what is `{rest}` for?", self.name))),
        }
    }

    fn column(&self, name: &str) -> Result<usize, InvalidOption> {
        let index = self.columns.iter().position(|column| column.name == name);
        index.ok_or_else(|| {
            invalid(format!("{} names {name}, which is no column of the view", self.name))
        })
    }

    fn check(&self, expr: &Expr, not_null: bool) -> Result<(), InvalidOption> {
        let mut walk = OptionWalk { option: self, not_null };
        match expr.visit(&mut walk) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(message) => Err(message),
        }
    }

    /// Whether an expression is certainly a point in time.
    fn is_time(&self, expr: &Expr) -> bool {
        match expr {
            Expr::Nested(inner) => self.is_time(inner),
            Expr::Identifier(ident) => {
                let column = self.column(&fold(ident));
                column.is_ok_and(|index| is_time_type(&self.columns[index].sql_type))
            }
            Expr::Function(function) => {
                let name = function.name.to_string();
                let makes_time = ["toDate", "toDate32", "toDateTime", "toMonday"];
                name.starts_with("toStartOf")
                    || MOVING_TIME.contains(&name.as_str())
                    || makes_time.contains(&name.as_str())
            }
            _ => false,
        }
    }

    fn function(&self, name: &str, first: Option<&Expr>) -> Result<(), InvalidOption> {
        let known = |list: &[&str]| list.contains(&name);
        let first_is = |fits: fn(&SqlType) -> bool, what: &str| {
            let Some(Expr::Identifier(ident)) = first else { return Ok(()) };
            let column = &self.columns[self.column(&fold(ident))?];
            match fits(&column.sql_type) {
                true => Ok(()),
                false => Err(invalid(format!(
                    "{}: {name} takes {what}, and {} is {}",
                    self.name, column.name, column.sql_type
                ))),
            }
        };
        if known(&OF_TIME) || known(&MOVING_TIME) {
            first_is(is_time_type, "a point in time")
        } else if known(&OF_NUMBERS) {
            first_is(is_number, "numbers")
        } else if known(&OF_ANYTHING) || known(&INTERVALS) {
            Ok(())
        } else {
            let lists = [&OF_TIME[..], &MOVING_TIME, &OF_NUMBERS, &OF_ANYTHING, &INTERVALS];
            let folded = name.to_lowercase();
            let spelled = lists.concat().into_iter().find(|known| known.to_lowercase() == folded);
            Err(match spelled {
                Some(known) => {
                    invalid(format!("{} calls {name}: in ClickHouse it is {known}", self.name))
                }
                None => invalid(format!(
                    "{} calls {name}, which is none of the functions of ClickHouse that may stand \
                     here ({}, …)",
                    self.name,
                    ["toYYYYMM", "toStartOfMonth", "intDiv", "modulo", "cityHash64"].join(", ")
                )),
            })
        }
    }
}

struct OptionWalk<'a> {
    option: &'a ExpressionOption<'a>,
    not_null: bool,
}

impl Visitor for OptionWalk<'_> {
    type Break = InvalidOption;

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<InvalidOption> {
        let option = self.option;
        let checked = match expr {
            Expr::Identifier(ident) => self.identifier(&fold(ident)),
            Expr::Function(function) => {
                let arguments = match &function.args {
                    FunctionArguments::List(list) => list.args.as_slice(),
                    _ => &[],
                };
                let first = arguments.first().and_then(|argument| match argument {
                    FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
                    _ => None,
                });
                option.function(&function.name.to_string(), first)
            }
            Expr::Subquery(_) | Expr::InSubquery { .. } | Expr::Exists { .. } => {
                Err(invalid(format!("{} cannot have a sub-query", option.name)))
            }
            _ => Ok(()),
        };
        match checked {
            Ok(()) => ControlFlow::Continue(()),
            Err(message) => ControlFlow::Break(message),
        }
    }
}

impl OptionWalk<'_> {
    fn identifier(&self, name: &str) -> Result<(), InvalidOption> {
        let ExpressionOption { name: option, columns, sorting } = self.option;
        let index = self.option.column(name)?;
        if !sorting.contains(&index) {
            return Err(invalid(format!(
                "{option} uses {name}, which is not in the sorting key: add it to order_by"
            )));
        }
        if self.not_null && columns[index].nullable {
            return Err(invalid(format!("{option} uses {name}, which may be NULL")));
        }
        Ok(())
    }
}

fn is_time_type(sql_type: &SqlType) -> bool {
    matches!(sql_type, SqlType::Date | SqlType::Timestamp { .. })
}

fn is_number(sql_type: &SqlType) -> bool {
    !matches!(
        sql_type,
        SqlType::Boolean
            | SqlType::Text
            | SqlType::Varchar(_)
            | SqlType::Bytea
            | SqlType::Date
            | SqlType::Timestamp { .. }
            | SqlType::Interval
            | SqlType::Time
            | SqlType::Uuid
            | SqlType::Json
            | SqlType::Array(_)
            | SqlType::Struct(_)
    )
}

fn is_interval(expr: &Expr) -> bool {
    match expr {
        Expr::Interval(_) => true,
        Expr::Nested(inner) => is_interval(inner),
        Expr::Function(function) => INTERVALS.contains(&function.name.to_string().as_str()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> Vec<SqlField> {
        vec![
            SqlField::new("day", SqlType::Date, false),
            SqlField::new("k", SqlType::Text, false),
            SqlField::new("n", SqlType::BigInt, true),
        ]
    }

    fn message(ttl: bool, text: &str) -> Option<String> {
        let columns = columns();
        let name = if ttl { "ttl" } else { "partition_by" };
        let option = ExpressionOption { name, columns: &columns, sorting: &[0, 1, 2] };
        let checked = if ttl { option.ttl(text) } else { option.partition(text) };
        checked.err().map(|error| error.to_string())
    }

    #[test]
    fn expressions_that_clickhouse_takes_pass() {
        for text in
            ["toYYYYMM(day)", "day", "(toMonday(day), n)", "intDiv(n, 10)", "cityHash64(k) % 8"]
        {
            assert_eq!(message(false, text), None, "{text}");
        }
        for text in
            ["day + INTERVAL 90 DAY", "toDateTime(day) + toIntervalDay(3)", "addDays(day, 3)"]
        {
            assert_eq!(message(true, text), None, "{text}");
        }
    }

    #[test]
    fn expressions_that_clickhouse_refuses_are_refused_with_the_reason() {
        for (ttl, text, reason) in [
            (false, "toYYYYMMM(day)", "which is none of the functions"),
            (false, "toyyyymm(day)", "in ClickHouse it is toYYYYMM"),
            (false, "toYYYYMM(k)", "takes a point in time, and k is TEXT"),
            (false, "intDiv(k, 10)", "takes numbers, and k is TEXT"),
            (false, "sum(n)", "which is none of the functions"),
            (false, "nothing", "no column of the view"),
            (false, "toYYYYMM(day) AS x", "is one expression"),
            (true, "n + INTERVAL 1 DAY", "which may be NULL"),
            (true, "k", "is no point in time"),
            (true, "day + 90", "is no point in time"),
        ] {
            let told = message(ttl, text).unwrap_or_default();
            assert!(told.contains(reason), "{text}: {told}");
        }
    }
}
