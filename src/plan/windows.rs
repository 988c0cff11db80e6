//! Windows by name, and frames, in the syntax tree.
//!
//! `OVER w`, `OVER (w …)` and `WINDOW v AS (w …)` are written out with what they take over of the window
//! `w`, by PostgreSQL's rules of what may be added. The offsets of a frame become literals. A frame whose
//! start lies behind its end has no rows: its aggregate is one over no rows.

use std::cmp::Ordering;
use std::ops::ControlFlow;

use arrow::compute::kernels::cast_utils::parse_interval_month_day_nano;
use arrow::datatypes::IntervalMonthDayNano;
use datafusion_common::{DataFusionError, Diagnostic, Result, Span, plan_datafusion_err};
use datafusion_sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion_sql::sqlparser::ast::{
    BinaryOperator, CaseWhen, DataType, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArguments, Ident, Interval, NamedWindowExpr, Query, Select, SetExpr, Spanned,
    UnaryOperator, Value, VisitMut, VisitorMut, WindowFrame, WindowFrameBound, WindowFrameUnits,
    WindowSpec, WindowType,
};
use datafusion_sql::sqlparser::keywords::Keyword;
use datafusion_sql::sqlparser::tokenizer::{self, Token, TokenWithSpan};

use super::exclusion;
use super::names::fold;

/// The window functions whose value comes from the frame; the value is their first argument.
const OF_FRAME: [&str; 3] = ["first_value", "last_value", "nth_value"];

const NANOSECONDS_PER_DAY: i128 = 86_400_000_000_000;

/// The query with all windows written out.
pub fn written_out(mut query: Query, is_aggregate: &dyn Fn(&str) -> bool) -> Result<Query> {
    let mut walk = NamedWindows { is_aggregate };
    match query.visit(&mut walk) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(query),
    }
}

/// Puts parentheses around texts that are cast where a bound of a frame may stand: the parser takes such a
/// text for an interval, and knows no cast of it.
pub fn tokens(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let is_space = |token: &TokenWithSpan| matches!(token.token, Token::Whitespace(_));
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut after_bound = false;
    let mut rest = tokens.into_iter().peekable();
    while let Some(token) = rest.next() {
        let is_text = matches!(token.token, Token::SingleQuotedString(_));
        let is_cast = rest.peek().is_some_and(|next| next.token == Token::DoubleColon);
        if after_bound && is_text && is_cast {
            let span = token.span;
            out.push(TokenWithSpan { token: Token::LParen, span });
            out.push(token);
            out.push(TokenWithSpan { token: Token::RParen, span });
            after_bound = false;
            continue;
        }
        if !is_space(&token) {
            after_bound = matches!(&token.token, Token::Word(word) if matches!(
                word.keyword,
                Keyword::ROWS | Keyword::RANGE | Keyword::GROUPS | Keyword::BETWEEN | Keyword::AND
            ));
        }
        out.push(token);
    }
    out
}

/// Replaces the names of windows, query by query.
struct NamedWindows<'a> {
    is_aggregate: &'a dyn Fn(&str) -> bool,
}

impl VisitorMut for NamedWindows<'_> {
    type Break = DataFusionError;

    /// Sub-queries come before the query around them, so that theirs are written out by then.
    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<DataFusionError> {
        let windows = match query.body.as_mut() {
            SetExpr::Select(select) => take_windows(select),
            _ => Ok(Vec::new()),
        };
        let windows = match windows {
            Ok(windows) => windows,
            Err(error) => return ControlFlow::Break(error),
        };
        if let Some(error) = in_body(&mut query.body, self.is_aggregate) {
            return ControlFlow::Break(error);
        }
        query.visit(&mut WindowCallVisitor { windows, is_aggregate: self.is_aggregate })
    }
}

/// The arms of a set operation have windows of their own.
fn in_body(body: &mut SetExpr, is_aggregate: &dyn Fn(&str) -> bool) -> Option<DataFusionError> {
    let SetExpr::SetOperation { left, right, .. } = body else { return None };
    for side in [left, right] {
        if let SetExpr::Select(select) = side.as_mut() {
            let windows = match take_windows(select) {
                Ok(windows) => windows,
                Err(error) => return Some(error),
            };
            if let ControlFlow::Break(error) =
                select.visit(&mut WindowCallVisitor { windows, is_aggregate })
            {
                return Some(error);
            }
        }
        if let Some(error) = in_body(side, is_aggregate) {
            return Some(error);
        }
    }
    None
}

/// The named windows of a SELECT, in the order of their definition.
type WindowSpecs = Vec<(String, WindowSpec)>;

fn take_windows(select: &mut Select) -> Result<WindowSpecs> {
    let mut windows: WindowSpecs = Vec::new();
    for definition in std::mem::take(&mut select.named_window) {
        let (name, expr) = (definition.0, definition.1);
        let spec = match expr {
            NamedWindowExpr::NamedWindow(base) => find(&windows, &base)?.clone(),
            NamedWindowExpr::WindowSpec(spec) => copied(&windows, spec)?,
        };
        let folded = fold(&name);
        if windows.iter().any(|(known, _)| *known == folded) {
            return Err(refusal(name.span, format!("window {name} is already defined")));
        }
        windows.push((folded, spec));
    }
    Ok(windows)
}

fn find<'a>(windows: &'a WindowSpecs, name: &Ident) -> Result<&'a WindowSpec> {
    let folded = fold(name);
    let found = windows.iter().find(|(known, _)| *known == folded);
    found
        .map(|(_, spec)| spec)
        .ok_or_else(|| refusal(name.span, format!("window {name} does not exist")))
}

/// A window with what it takes over of the window that it names.
fn copied(windows: &WindowSpecs, mut spec: WindowSpec) -> Result<WindowSpec> {
    let Some(name) = spec.window_name.take() else { return Ok(spec) };
    let exclusion = exclusion::take(&mut spec.partition_by);
    let base = find(windows, &name)?;
    let refuse = |message: String| Err(refusal(name.span, message));
    if !spec.partition_by.is_empty() {
        return refuse(format!("cannot override PARTITION BY clause of window {name}"));
    }
    if !spec.order_by.is_empty() && !base.order_by.is_empty() {
        return refuse(format!("cannot override ORDER BY clause of window {name}"));
    }
    if base.window_frame.is_some() {
        return refuse(format!(
            "cannot copy window {name} because it has a frame clause: OVER {name} without \
             parentheses takes all of it"
        ));
    }
    spec.partition_by.clone_from(&base.partition_by);
    spec.partition_by.extend(exclusion);
    if spec.order_by.is_empty() {
        spec.order_by.clone_from(&base.order_by);
    }
    Ok(spec)
}

fn refusal(at: tokenizer::Span, message: String) -> DataFusionError {
    let diagnostic = Diagnostic::new_error(message.clone(), Span::try_from_sqlparser_span(at));
    plan_datafusion_err!("{message}"; diagnostic = diagnostic)
}

struct WindowCallVisitor<'a> {
    windows: WindowSpecs,
    is_aggregate: &'a dyn Fn(&str) -> bool,
}

impl VisitorMut for WindowCallVisitor<'_> {
    type Break = DataFusionError;

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<DataFusionError> {
        let Expr::Function(function) = expr else { return ControlFlow::Continue(()) };
        match self.call(function) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }
}

impl WindowCallVisitor<'_> {
    fn call(&self, function: &mut Function) -> Result<()> {
        let spec = match function.over.take() {
            None => return Ok(()),
            Some(WindowType::NamedWindow(name)) => find(&self.windows, &name)?.clone(),
            Some(WindowType::WindowSpec(spec)) => copied(&self.windows, spec)?,
        };
        let at = function.name.span();
        let (mut spec, is_empty) = with_frame(spec, at)?;
        let name = function.name.to_string().to_lowercase();
        let of_frame = OF_FRAME.contains(&name.as_str()) || (self.is_aggregate)(&name);
        if is_empty || !of_frame {
            // There is nothing that a frame could leave out.
            exclusion::take(&mut spec.partition_by);
        }
        function.over = Some(WindowType::WindowSpec(spec));
        if !is_empty {
            return Ok(());
        }
        if OF_FRAME.contains(&name.as_str()) {
            if let FunctionArguments::List(list) = &mut function.args
                && let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(value))) =
                    list.args.first_mut()
            {
                *value = never(value.clone());
            }
        } else if (self.is_aggregate)(&name) {
            function.filter = Some(Box::new(Expr::value(Value::Boolean(false))));
        }
        Ok(())
    }
}

/// NULL, of a value's type.
fn never(value: Expr) -> Expr {
    Expr::Case {
        case_token: AttachedToken::empty(),
        end_token: AttachedToken::empty(),
        operand: None,
        conditions: vec![CaseWhen { condition: Expr::value(Value::Boolean(false)), result: value }],
        else_result: None,
    }
}

/// The place of a frame's bound.
#[derive(Clone, Debug)]
enum FrameBound {
    FirstRow,
    Before(Offset),
    CurrentRow,
    After(Offset),
    LastRow,
}

/// A constant distance, and how it is written.
#[derive(Clone, Debug)]
enum Offset {
    Number(f64, Expr),
    Interval(IntervalMonthDayNano, Expr),
}

/// The window with literals as the offsets of its frame, and whether the frame never has rows; such a
/// frame is left out.
fn with_frame(mut spec: WindowSpec, at: tokenizer::Span) -> Result<(WindowSpec, bool)> {
    let Some(frame) = spec.window_frame.take() else { return Ok((spec, false)) };
    let refuse = |message: &str| Err(refusal(at, message.to_string()));
    let start = bound(&frame.start_bound, true, at)?;
    let end = match &frame.end_bound {
        Some(end) => bound(end, false, at)?,
        None => FrameBound::CurrentRow,
    };
    match (&start, &end) {
        (FrameBound::LastRow, _) => return refuse("frame start cannot be UNBOUNDED FOLLOWING"),
        (_, FrameBound::FirstRow) => return refuse("frame end cannot be UNBOUNDED PRECEDING"),
        (FrameBound::CurrentRow, FrameBound::Before(_)) => {
            return refuse("frame starting from current row cannot have preceding rows");
        }
        (FrameBound::After(_), FrameBound::CurrentRow) if frame.end_bound.is_none() => {
            return refuse("frame starting from following row cannot end with current row");
        }
        (FrameBound::After(_), FrameBound::Before(_) | FrameBound::CurrentRow) => {
            return refuse("frame starting from following row cannot have preceding rows");
        }
        _ => {}
    }
    if frame.units == WindowFrameUnits::Groups && spec.order_by.is_empty() {
        return refuse("GROUPS mode requires an ORDER BY clause");
    }
    let has_offset =
        |bound: &FrameBound| matches!(bound, FrameBound::Before(_) | FrameBound::After(_));
    if frame.units == WindowFrameUnits::Range
        && (has_offset(&start) || has_offset(&end))
        && spec.order_by.len() != 1
    {
        return refuse(
            "RANGE with offset PRECEDING/FOLLOWING requires exactly one ORDER BY column",
        );
    }
    let is_empty = match (&start, &end) {
        (FrameBound::Before(start), FrameBound::Before(end)) => is_less(start, end, at)?,
        (FrameBound::After(start), FrameBound::After(end)) => is_less(end, start, at)?,
        _ => false,
    };
    if !is_empty {
        let end_bound = frame.end_bound.is_some().then(|| written(end));
        spec.window_frame =
            Some(WindowFrame { units: frame.units, start_bound: written(start), end_bound });
    }
    Ok((spec, is_empty))
}

fn written(bound: FrameBound) -> WindowFrameBound {
    let expr = |offset| match offset {
        Offset::Number(_, expr) | Offset::Interval(_, expr) => Some(Box::new(expr)),
    };
    match bound {
        FrameBound::FirstRow => WindowFrameBound::Preceding(None),
        FrameBound::Before(offset) => WindowFrameBound::Preceding(expr(offset)),
        FrameBound::CurrentRow => WindowFrameBound::CurrentRow,
        FrameBound::After(offset) => WindowFrameBound::Following(expr(offset)),
        FrameBound::LastRow => WindowFrameBound::Following(None),
    }
}

fn bound(bound: &WindowFrameBound, starts: bool, at: tokenizer::Span) -> Result<FrameBound> {
    Ok(match bound {
        WindowFrameBound::CurrentRow => FrameBound::CurrentRow,
        WindowFrameBound::Preceding(None) => FrameBound::FirstRow,
        WindowFrameBound::Following(None) => FrameBound::LastRow,
        WindowFrameBound::Preceding(Some(expr)) => FrameBound::Before(offset(expr, starts, at)?),
        WindowFrameBound::Following(Some(expr)) => FrameBound::After(offset(expr, starts, at)?),
    })
}

fn offset(expr: &Expr, starts: bool, at: tokenizer::Span) -> Result<Offset> {
    let which = if starts { "starting" } else { "ending" };
    let refuse = |message: String| Err(refusal(at, message));
    match constant(expr) {
        Some(Constant::Null) => refuse(format!("frame {which} offset must not be null")),
        Some(Constant::Number(number)) => {
            let value: f64 = number.parse().unwrap_or(f64::NAN);
            if number.starts_with('-') && value != 0.0 {
                return refuse(format!("frame {which} offset must not be negative"));
            }
            let number = number.trim_start_matches('-').to_string();
            Ok(Offset::Number(value, Expr::value(Value::Number(number, false))))
        }
        Some(Constant::Interval(text, expr)) => match parse_interval_month_day_nano(&text) {
            Ok(value) if value.months < 0 || value.days < 0 || value.nanoseconds < 0 => {
                refuse(format!("frame {which} offset must not be negative"))
            }
            Ok(value) => Ok(Offset::Interval(value, *expr)),
            Err(_) => refuse(format!("{text} is no interval that a frame can be measured by")),
        },
        None => refuse(format!("the offset {expr} of a frame is no constant")),
    }
}

/// Whether a distance is less than another, whatever the row.
fn is_less(left: &Offset, right: &Offset, at: tokenizer::Span) -> Result<bool> {
    let order = match (left, right) {
        (Offset::Number(left, _), Offset::Number(right, _)) => left.partial_cmp(right),
        (Offset::Interval(left, _), Offset::Interval(right, _)) => {
            // Days have 24 hours, months 28 to 31 days.
            let span = |of: &IntervalMonthDayNano, days_of_month: i128| {
                let days = i128::from(of.months) * days_of_month + i128::from(of.days);
                days * NANOSECONDS_PER_DAY + i128::from(of.nanoseconds)
            };
            match span(left, 28).cmp(&span(right, 28)) {
                order if order == span(left, 31).cmp(&span(right, 31)) => Some(order),
                _ => None,
            }
        }
        _ => None,
    };
    match order {
        Some(order) => Ok(order == Ordering::Less),
        None => Err(refusal(at, "which bound of the frame comes first is not certain".to_string())),
    }
}

enum Constant {
    Null,
    Number(String),
    /// Its text, and how it is written.
    Interval(String, Box<Expr>),
}

fn constant(expr: &Expr) -> Option<Constant> {
    match expr {
        Expr::Nested(inner) => constant(inner),
        Expr::Value(value) => match &value.value {
            Value::Null => Some(Constant::Null),
            Value::Number(number, _) => Some(Constant::Number(number.clone())),
            Value::SingleQuotedString(text) => Some(match text.trim().parse::<f64>() {
                Ok(_) => Constant::Number(text.trim().to_string()),
                Err(_) => interval(text),
            }),
            _ => None,
        },
        Expr::Interval(written) => {
            let text = match written.value.as_ref() {
                Expr::Value(value) => match &value.value {
                    Value::SingleQuotedString(text) => text.clone(),
                    _ => return None,
                },
                _ => return None,
            };
            Some(interval(&match &written.leading_field {
                Some(field) => format!("{text} {field}"),
                None => text,
            }))
        }
        Expr::Cast { expr, data_type, .. } => cast(constant(expr)?, expr, data_type),
        Expr::UnaryOp { op: UnaryOperator::Plus, expr } => constant(expr),
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match constant(expr)? {
            Constant::Number(number) => Some(Constant::Number(match number.strip_prefix('-') {
                Some(positive) => positive.to_string(),
                None => format!("-{number}"),
            })),
            _ => None,
        },
        Expr::BinaryOp { left, op, right } => {
            let (Constant::Number(left), Constant::Number(right)) =
                (constant(left)?, constant(right)?)
            else {
                return None;
            };
            let (left, right): (i64, i64) = (left.parse().ok()?, right.parse().ok()?);
            let value = match op {
                BinaryOperator::Plus => left.checked_add(right),
                BinaryOperator::Minus => left.checked_sub(right),
                BinaryOperator::Multiply => left.checked_mul(right),
                _ => None,
            };
            value.map(|value| Constant::Number(value.to_string()))
        }
        _ => None,
    }
}

fn cast(value: Constant, written: &Expr, data_type: &DataType) -> Option<Constant> {
    let is_whole = matches!(
        data_type,
        DataType::Int(None)
            | DataType::Integer(None)
            | DataType::Int4(None)
            | DataType::SmallInt(None)
            | DataType::Int2(None)
            | DataType::BigInt(None)
            | DataType::Int8(None)
    );
    let is_number = matches!(
        data_type,
        DataType::Numeric(_)
            | DataType::Decimal(_)
            | DataType::Real
            | DataType::Float4
            | DataType::Float8
            | DataType::DoublePrecision
    );
    match (value, data_type) {
        (Constant::Null, _) => Some(Constant::Null),
        (Constant::Number(number), _) if is_whole => {
            number.parse::<i64>().ok().map(|_| Constant::Number(number))
        }
        (Constant::Number(number), _) if is_number => Some(Constant::Number(number)),
        (Constant::Interval(text, _), DataType::Interval { .. }) => Some(interval(&text)),
        (Constant::Number(_), DataType::Interval { .. }) => match written {
            Expr::Value(value) => match &value.value {
                Value::SingleQuotedString(text) => Some(interval(text)),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

fn interval(text: &str) -> Constant {
    let expr = Expr::Interval(Interval {
        value: Box::new(Expr::value(Value::SingleQuotedString(text.to_string()))),
        leading_field: None,
        leading_precision: None,
        last_field: None,
        fractional_seconds_precision: None,
    });
    Constant::Interval(text.to_string(), Box::new(expr))
}
