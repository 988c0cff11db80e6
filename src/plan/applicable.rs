//! Operators and functions over types that PostgreSQL does not have them for: refused, where DataFusion would make
//! the types agree. `name = 5` compares texts there, and is an error in PostgreSQL.
//!
//! Types are told apart by [`OperandClass`]: integers of all widths are one, since columns here may be wider
//! than PostgreSQL's. A literal in quotes has no type of its own. `signatures.txt` has the argument classes
//! of PostgreSQL's functions; a function that PostgreSQL does not have takes what it takes here.

use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

use arrow::datatypes::{DataType, Field};
use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_common::{DFSchema, DataFusionError, Diagnostic, Result, plan_datafusion_err};
use datafusion_expr::expr::{InSubquery, Like};
use datafusion_expr::utils::merge_schema;
use datafusion_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator};

use crate::model::schema::{SqlField, SqlType};

/// PostgreSQL's functions: a line each, a name and the arguments that it takes, with commas between; a `*` behind
/// the last one that may repeat.
static SIGNATURES: LazyLock<HashMap<&str, Vec<Vec<&str>>>> = LazyLock::new(|| {
    let line = |line: &'static str| {
        let (name, forms) = line.split_once(": ")?;
        let arguments = |form: &'static str| match form {
            "()" => Vec::new(),
            form => form.split(' ').collect(),
        };
        Some((name, forms.split(", ").map(arguments).collect()))
    };
    include_str!("signatures.txt").lines().filter_map(line).collect()
});

/// Whether PostgreSQL has a function of this name.
pub fn has_signature(name: &str) -> bool {
    SIGNATURES.contains_key(name)
}

/// Refuses what PostgreSQL has no operator or function for.
pub fn check(plan: &LogicalPlan) -> Result<()> {
    plan.apply_with_subqueries(|node| {
        let schema = merge_schema(&node.inputs());
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                check_expr(expr, &schema)?;
                Ok(TreeNodeRecursion::Continue)
            })
        })?;
        match node {
            LogicalPlan::Join(join) => {
                for (left, right) in &join.on {
                    let left_value = Operand::of(left, join.left.schema());
                    let right_value = Operand::of(right, join.right.schema());
                    compared("=", &left_value, &right_value, left)?;
                }
            }
            LogicalPlan::Union(union) => {
                let inputs: Vec<&LogicalPlan> = union.inputs.iter().map(AsRef::as_ref).collect();
                for column in 0..union.schema.fields().len() {
                    let values: Vec<Operand> =
                        inputs.iter().map(|input| Operand::of_column(input, column)).collect();
                    if let Some((one, other)) = unlike(&values) {
                        let at = Expr::Column(union.schema.columns()[column].clone());
                        let message = format!("UNION types {one} and {other} cannot be matched");
                        return Err(refusal(&at, message));
                    }
                }
            }
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(())
}

/// The classes of types that operators tell apart.
#[derive(Clone, Debug, PartialEq, Eq)]
enum OperandClass {
    /// NULL, or a literal in quotes.
    Unknown,
    Boolean,
    Int,
    Numeric,
    Float,
    Text,
    Bytea,
    Date,
    Timestamp,
    TimestampTz,
    Interval,
    Time,
    Uuid,
    Json,
    Array(Box<OperandClass>),
    /// A type that is compared in a way of its own.
    Other,
}

impl OperandClass {
    fn of(sql_type: &SqlType) -> Self {
        match sql_type {
            SqlType::Boolean => OperandClass::Boolean,
            SqlType::SmallInt
            | SqlType::Int
            | SqlType::BigInt
            | SqlType::SmallIntUnsigned
            | SqlType::IntUnsigned
            | SqlType::BigIntUnsigned => OperandClass::Int,
            SqlType::Decimal { .. } => OperandClass::Numeric,
            SqlType::Real | SqlType::Double => OperandClass::Float,
            SqlType::Text | SqlType::Varchar(_) => OperandClass::Text,
            SqlType::Bytea => OperandClass::Bytea,
            SqlType::Date => OperandClass::Date,
            SqlType::Timestamp { with_time_zone: false, .. } => OperandClass::Timestamp,
            SqlType::Timestamp { .. } => OperandClass::TimestampTz,
            SqlType::Interval => OperandClass::Interval,
            SqlType::Time => OperandClass::Time,
            SqlType::Uuid => OperandClass::Uuid,
            SqlType::Json => OperandClass::Json,
            SqlType::Array(item) => OperandClass::Array(Box::new(OperandClass::of(&item.sql_type))),
            SqlType::Struct(_) => OperandClass::Other,
        }
    }

    fn is_number(&self) -> bool {
        matches!(self, OperandClass::Int | OperandClass::Numeric | OperandClass::Float)
    }

    fn is_time(&self) -> bool {
        matches!(self, OperandClass::Date | OperandClass::Timestamp | OperandClass::TimestampTz)
    }

    /// Whether anything may be beside it.
    fn is_open(&self) -> bool {
        matches!(self, OperandClass::Unknown | OperandClass::Other)
    }

    fn is_text(&self) -> bool {
        *self == OperandClass::Text || self.is_open()
    }

    /// Whether values of the two are compared.
    fn compares_with(&self, other: &OperandClass) -> bool {
        match (self, other) {
            (a, b) if a.is_open() || b.is_open() || a == b => true,
            (OperandClass::Array(a), OperandClass::Array(b)) => a.compares_with(b),
            // A text may have been a UUID or JSON: CASE and the like lose that type.
            (OperandClass::Text, OperandClass::Uuid | OperandClass::Json)
            | (OperandClass::Uuid | OperandClass::Json, OperandClass::Text) => true,
            (a, b) => (a.is_number() && b.is_number()) || (a.is_time() && b.is_time()),
        }
    }

    /// Whether a function's argument of this name takes it.
    fn fits(&self, argument: &str) -> bool {
        let numbers = ["int", "numeric", "float"];
        let times = ["date", "timestamp", "timestamptz"];
        let one_of = |names: &[&str]| names.contains(&argument);
        argument == "any"
            || match self {
                OperandClass::Unknown | OperandClass::Other => true,
                OperandClass::Int => one_of(&numbers),
                OperandClass::Numeric => one_of(&numbers[1..]),
                OperandClass::Float => one_of(&numbers[2..]),
                OperandClass::Date => one_of(&times),
                OperandClass::Timestamp => one_of(&times[1..]),
                OperandClass::TimestampTz => one_of(&times[2..]),
                OperandClass::Boolean => argument == "boolean",
                OperandClass::Text => one_of(&["text", "uuid", "json"]),
                OperandClass::Bytea => argument == "bytea",
                OperandClass::Interval => argument == "interval",
                OperandClass::Time => argument == "time",
                OperandClass::Uuid => argument == "uuid",
                OperandClass::Json => argument == "json",
                OperandClass::Array(_) => argument == "array",
            }
    }
}

/// A value and what it is called in a message.
#[derive(Clone, Debug)]
struct Operand {
    class: OperandClass,
    name: String,
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Operand {
    fn of(expr: &Expr, schema: &DFSchema) -> Self {
        match expr {
            Expr::Alias(alias) => Operand::of(&alias.expr, schema),
            Expr::Literal(value, _) if value.is_null() || value.data_type().is_string() => {
                Operand { class: OperandClass::Unknown, name: "unknown".to_string() }
            }
            expr => match expr.to_field(schema) {
                Ok((_, field)) => Operand::of_field(&field),
                Err(_) => Operand { class: OperandClass::Other, name: "unknown".to_string() },
            },
        }
    }

    fn of_field(field: &Field) -> Self {
        if matches!(field.data_type(), DataType::Duration(_)) {
            return Operand { class: OperandClass::Interval, name: "INTERVAL".to_string() };
        }
        if field.data_type().is_null() {
            return Operand { class: OperandClass::Unknown, name: "unknown".to_string() };
        }
        match SqlField::from_arrow(field) {
            Ok(field) => {
                let name = field.sql_type.to_string();
                Operand { class: OperandClass::of(&field.sql_type), name }
            }
            Err(other) => Operand { class: OperandClass::Other, name: other.to_string() },
        }
    }

    /// A column of a query, which may be a literal.
    fn of_column(plan: &LogicalPlan, column: usize) -> Self {
        match plan {
            LogicalPlan::Projection(projection) => {
                Operand::of(&projection.expr[column], projection.input.schema())
            }
            plan => Operand::of_field(plan.schema().field(column)),
        }
    }
}

fn refusal(at: &Expr, message: String) -> DataFusionError {
    let mut span = None;
    let _ = at.apply(|expr| {
        if let Expr::Column(column) = expr
            && let Some(first) = column.spans.first()
        {
            span = Some(first);
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    let diagnostic = Diagnostic::new_error(message.clone(), span);
    plan_datafusion_err!("{message}"; diagnostic = diagnostic)
}

fn no_operator(
    operator: impl fmt::Display,
    left: &Operand,
    right: &Operand,
    at: &Expr,
) -> DataFusionError {
    let message = format!(
        "operator does not exist: {left} {operator} {right}: CAST one of them to the type that is meant"
    );
    refusal(at, message)
}

fn compared(operator: impl fmt::Display, left: &Operand, right: &Operand, at: &Expr) -> Result<()> {
    match left.class.compares_with(&right.class) {
        true => Ok(()),
        false => Err(no_operator(operator, left, right, at)),
    }
}

/// Two of the values that have no type in common.
fn unlike(values: &[Operand]) -> Option<(&Operand, &Operand)> {
    let first = values.iter().find(|value| !value.class.is_open())?;
    let other = values.iter().find(|value| !value.class.compares_with(&first.class))?;
    Some((first, other))
}

fn agreeing<'a>(
    construct: &str,
    values: impl Iterator<Item = &'a Expr>,
    schema: &DFSchema,
    at: &Expr,
) -> Result<()> {
    let values: Vec<Operand> = values.map(|value| Operand::of(value, schema)).collect();
    match unlike(&values) {
        None => Ok(()),
        Some((one, other)) => {
            let message =
                format!("{construct} types {one} and {other} cannot be matched: CAST one of them");
            Err(refusal(at, message))
        }
    }
}

fn check_expr(expr: &Expr, schema: &DFSchema) -> Result<()> {
    let of = |expr: &Expr| Operand::of(expr, schema);
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let (left, right) = (of(left), of(right));
            match has_operator(*op, &left.class, &right.class) {
                true => Ok(()),
                false => Err(no_operator(op, &left, &right, expr)),
            }
        }
        Expr::Like(Like { expr: value, pattern, .. })
        | Expr::SimilarTo(Like { expr: value, pattern, .. }) => {
            let (value, pattern) = (of(value), of(pattern));
            match value.class.is_text() && pattern.class.is_text() {
                true => Ok(()),
                false => Err(no_operator("LIKE", &value, &pattern, expr)),
            }
        }
        Expr::InList(list) => {
            let value = of(&list.expr);
            list.list.iter().try_for_each(|item| compared("=", &value, &of(item), expr))
        }
        Expr::Between(between) => {
            let value = of(&between.expr);
            compared(">=", &value, &of(&between.low), expr)?;
            compared("<=", &value, &of(&between.high), expr)
        }
        Expr::InSubquery(InSubquery { expr: value, subquery, .. }) => {
            let column = Operand::of_column(&subquery.subquery, 0);
            compared("=", &of(value), &column, expr)
        }
        Expr::SetComparison(comparison) => {
            let column = Operand::of_column(&comparison.subquery.subquery, 0);
            compared(comparison.op, &of(&comparison.expr), &column, expr)
        }
        Expr::Case(case) => {
            if let Some(value) = &case.expr {
                let value = of(value);
                for (when, _) in &case.when_then_expr {
                    compared("=", &value, &of(when), expr)?;
                }
            }
            let results = case.when_then_expr.iter().map(|(_, then)| then.as_ref());
            agreeing("CASE", results.chain(case.else_expr.as_deref()), schema, expr)
        }
        Expr::ScalarFunction(call) => match call.func.name() {
            name @ ("coalesce" | "greatest" | "least") => {
                agreeing(&name.to_uppercase(), call.args.iter(), schema, expr)
            }
            "nullif" => match call.args.as_slice() {
                [one, other] => compared("=", &of(one), &of(other), expr),
                _ => Ok(()),
            },
            name if name.ends_with(" any") || name.ends_with(" all") => {
                match call.args.iter().map(of).collect::<Vec<_>>().as_slice() {
                    [one, Operand { class: OperandClass::Array(item), name: array }] => {
                        let item = Operand { class: (**item).clone(), name: array.clone() };
                        compared(name, one, &item, expr)
                    }
                    _ => Ok(()),
                }
            }
            name => called(name, &call.args, schema, expr),
        },
        Expr::AggregateFunction(call) => called(call.func.name(), &call.params.args, schema, expr),
        Expr::WindowFunction(call) => called(call.fun.name(), &call.params.args, schema, expr),
        _ => Ok(()),
    }
}

/// Refuses what makes an array of values that would be texts in it.
fn elements(name: &str, values: &[Expr], schema: &DFSchema, at: &Expr) -> Result<()> {
    let name = match name {
        "make_array" => "ARRAY[…]",
        "array_agg" => name,
        _ => return Ok(()),
    };
    let of_a_kind =
        |value: &Operand| matches!(value.class, OperandClass::Uuid | OperandClass::Json);
    match values.iter().map(|value| Operand::of(value, schema)).find(of_a_kind) {
        Some(value) => {
            let message = format!("{name} of {value} is not supported: CAST it to TEXT");
            Err(refusal(at, message))
        }
        None => Ok(()),
    }
}

/// Whether PostgreSQL has the operator for these.
fn has_operator(op: Operator, left: &OperandClass, right: &OperandClass) -> bool {
    use Operator::*;
    let both = |holds: &dyn Fn(&OperandClass) -> bool| {
        (left.is_open() || holds(left)) && (right.is_open() || holds(right))
    };
    match op {
        Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom => {
            left.compares_with(right)
        }
        And | Or => both(&|class| *class == OperandClass::Boolean),
        Plus | Minus | Multiply | Divide | Modulo => {
            left.is_open() || right.is_open() || calculates(op, left, right)
        }
        BitwiseAnd | BitwiseOr | BitwiseXor | BitwiseShiftLeft | BitwiseShiftRight => {
            both(&|class| *class == OperandClass::Int)
        }
        RegexMatch | RegexIMatch | RegexNotMatch | RegexNotIMatch | LikeMatch | ILikeMatch
        | NotLikeMatch | NotILikeMatch => both(&|class| *class == OperandClass::Text),
        StringConcat => {
            let joins = |class: &OperandClass| {
                matches!(
                    class,
                    OperandClass::Text
                        | OperandClass::Bytea
                        | OperandClass::Json
                        | OperandClass::Array(_)
                )
            };
            left.is_open() || right.is_open() || joins(left) || joins(right)
        }
        _ => true,
    }
}

/// Whether PostgreSQL calculates with two such values. (Days beside days or numbers are calls here.)
fn calculates(op: Operator, left: &OperandClass, right: &OperandClass) -> bool {
    let is_span = |class: &OperandClass| *class == OperandClass::Interval;
    let numbers = left.is_number() && right.is_number();
    match op {
        Operator::Plus => {
            let (span_left, span_right) = (is_span(left), is_span(right));
            numbers
                || (span_left && (span_right || right.is_time()))
                || (left.is_time() && span_right)
        }
        Operator::Minus => {
            numbers
                || (left.is_time() && (right.is_time() || is_span(right)))
                || (is_span(left) && is_span(right))
        }
        Operator::Multiply => {
            numbers || (is_span(left) && right.is_number()) || (left.is_number() && is_span(right))
        }
        Operator::Divide => numbers || (is_span(left) && right.is_number()),
        _ => numbers && *left != OperandClass::Float && *right != OperandClass::Float,
    }
}

/// Whether PostgreSQL has a function of this name for these arguments, if it has one at all.
fn called(name: &str, arguments: &[Expr], schema: &DFSchema, at: &Expr) -> Result<()> {
    elements(name, arguments, schema, at)?;
    let Some(forms) = SIGNATURES.get(name) else { return Ok(()) };
    let given: Vec<Operand> =
        arguments.iter().map(|argument| Operand::of(argument, schema)).collect();
    let takes = |form: &Vec<&str>| {
        let repeated = form.last().and_then(|last| last.strip_suffix('*'));
        let fixed = if repeated.is_some() { form.len() - 1 } else { form.len() };
        let count = match repeated {
            Some(_) => given.len() > fixed,
            None => given.len() == fixed,
        };
        let named =
            form[..fixed].iter().copied().chain(std::iter::repeat(repeated.unwrap_or("any")));
        count && given.iter().zip(named).all(|(value, argument)| value.class.fits(argument))
    };
    if forms.iter().any(takes) {
        return Ok(());
    }
    let given: Vec<String> = given.iter().map(ToString::to_string).collect();
    let takes: Vec<String> =
        forms.iter().map(|form| format!("{name}({})", form.join(", "))).collect();
    let message =
        format!("function {name}({}) does not exist: {} does", given.join(", "), takes.join(", "));
    Err(refusal(at, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_and_functions_are_for_the_types_that_postgresql_has_them_for() {
        let array = |item| OperandClass::Array(Box::new(item));
        assert!(OperandClass::Int.compares_with(&OperandClass::Float));
        assert!(OperandClass::Date.compares_with(&OperandClass::TimestampTz));
        assert!(!OperandClass::Text.compares_with(&OperandClass::Int));
        assert!(OperandClass::Text.compares_with(&OperandClass::Unknown));
        assert!(!array(OperandClass::Text).compares_with(&array(OperandClass::Int)));
        assert!(has_operator(Operator::StringConcat, &OperandClass::Int, &OperandClass::Text));
        assert!(!has_operator(Operator::StringConcat, &OperandClass::Int, &OperandClass::Numeric));
        assert!(!has_operator(Operator::Plus, &OperandClass::Date, &OperandClass::Timestamp));
        assert!(!has_operator(Operator::Plus, &OperandClass::Timestamp, &OperandClass::Int));
        assert!(has_operator(Operator::Minus, &OperandClass::Timestamp, &OperandClass::Interval));
        assert!(has_operator(Operator::Multiply, &OperandClass::Int, &OperandClass::Interval));
        assert!(!has_operator(Operator::Modulo, &OperandClass::Float, &OperandClass::Int));
        assert!(!has_operator(Operator::And, &OperandClass::Boolean, &OperandClass::Int));
        assert!(OperandClass::Int.fits("float") && !OperandClass::Float.fits("numeric"));
        assert_eq!(SIGNATURES["repeat"], [["text", "int"]]);
        assert_eq!(SIGNATURES["concat"], [["any*"]]);
    }
}
