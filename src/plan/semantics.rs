//! Versions of what SQL means. A function or construct whose meaning changes gets a higher number
//! here, which makes the generations of the views that use it other ones: those are built anew, and
//! no others.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion_sql::sqlparser::ast::{
    Distinct, Expr, JoinConstraint, JoinOperator, Query, SetExpr, TableFactor, Visit, Visitor,
};

use crate::model::schema::{EventTable, TableColumn};

/// Raised when nearly everything comes to mean other rows, so that every view is built anew. The
/// numbers of [`CHANGED`] begin anew with it.
pub const ENGINE: u32 = 8;

/// Functions and constructs that have changed since [`ENGINE`] was raised, with how often. A function
/// is known by its name, an operator by its spelling (`operator ||`), a cast by the type that it
/// gives (`cast date`), any other construct by the words of [`Uses`].
pub const CHANGED: Changes<'_> = &[
    ("json_agg", 1),
    ("using", 1),
    ("natural", 1),
    ("values", 2),
    // Quotients are rounded where PostgreSQL rounds them.
    ("operator /", 1),
    ("avg", 1),
    ("mean", 1),
    ("var", 1),
    ("var_samp", 1),
    ("var_sample", 1),
    ("var_pop", 1),
    ("var_population", 1),
    ("variance", 1),
    // Values that stand for one have PostgreSQL's common type: floats before decimals, instants
    // before timestamps, quoted intervals.
    ("coalesce", 1),
    ("greatest", 1),
    ("least", 1),
    ("nullif", 1),
    ("array", 1),
    ("make_array", 1),
    ("case", 1),
    ("union", 1),
    ("in", 1),
    ("between", 1),
    // Only elements of a comparable type are compared.
    ("any", 1),
    // A TIME that is NULL is not computed with.
    ("cast time", 1),
    ("cast interval", 1),
    // A backslash that is meant as one is found.
    ("operator ~", 1),
    ("operator ~*", 1),
    ("operator !~", 1),
    ("operator !~*", 1),
    ("similar to", 1),
    ("regexp_like", 1),
    // The prefix TM, and suffixes of names.
    ("to_char", 1),
    ("to_date", 1),
    ("to_timestamp", 1),
    // It is an INT.
    ("ntile", 1),
    // A name is a column of the result first.
    ("distinct on", 1),
    // Values of jsonb are compared as such, with literals too.
    ("cast jsonb", 1),
    ("operator ->", 1),
    ("operator #>", 1),
    ("to_jsonb", 1),
    ("jsonb_build_object", 1),
    ("jsonb_build_array", 1),
    ("jsonb_agg", 1),
    ("jsonb_object_agg", 1),
];

/// Names of functions and constructs, each with how often it has changed.
pub type Changes<'a> = &'a [(&'a str, u32)];

/// The version of the meaning of a table's declaration, if it has changed since [`ENGINE`] was raised.
pub fn of_table(table: &EventTable) -> Option<&'static str> {
    let mentions_length = |c: &TableColumn| c.field.sql_type.mentions_length();
    // A text that is longer is no row.
    table.columns.iter().any(mentions_length).then_some("VARCHAR(n) of a table 1")
}

/// The functions and constructs of these queries that have changed: a line each, in the order of `changed`.
pub fn versions<'a>(queries: impl Iterator<Item = &'a Query>, changed: Changes<'_>) -> Vec<String> {
    let mut uses = Uses::default();
    for query in queries {
        let _ = query.visit(&mut uses);
    }
    let used = changed.iter().filter(|(name, _)| uses.0.contains(*name));
    used.map(|(name, version)| format!("{name} {version}")).collect()
}

/// The names of all functions, operators, casts and other constructs of a query.
#[derive(Default)]
struct Uses(BTreeSet<String>);

impl Uses {
    fn add(&mut self, name: impl Into<String>) {
        self.0.insert(name.into());
    }

    fn joins(&mut self, body: &SetExpr) {
        match body {
            SetExpr::Select(select) => {
                if matches!(select.distinct, Some(Distinct::On(_))) {
                    self.add("distinct on");
                }
                if !select.named_window.is_empty() {
                    self.add("named window");
                }
                for join in select.from.iter().flat_map(|from| &from.joins) {
                    self.join(&join.join_operator);
                }
            }
            SetExpr::SetOperation { op, left, right, .. } => {
                self.add(op.to_string().to_lowercase());
                self.joins(left);
                self.joins(right);
            }
            SetExpr::Values(_) => self.add("values"),
            _ => {}
        }
    }

    fn join(&mut self, operator: &JoinOperator) {
        let (JoinOperator::Join(constraint)
        | JoinOperator::Inner(constraint)
        | JoinOperator::Left(constraint)
        | JoinOperator::LeftOuter(constraint)
        | JoinOperator::Right(constraint)
        | JoinOperator::RightOuter(constraint)
        | JoinOperator::FullOuter(constraint)) = operator
        else {
            return;
        };
        match constraint {
            JoinConstraint::Using(_) => self.add("using"),
            JoinConstraint::Natural => self.add("natural"),
            JoinConstraint::On(_) | JoinConstraint::None => {}
        }
    }
}

impl Visitor for Uses {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.joins(&query.body);
        if query.with.as_ref().is_some_and(|with| with.recursive) {
            self.add("recursive");
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        match factor {
            TableFactor::Table { name, args: Some(_), .. } | TableFactor::Function { name, .. } => {
                self.add(name.to_string().to_lowercase());
            }
            TableFactor::UNNEST { .. } => self.add("unnest"),
            TableFactor::NestedJoin { table_with_joins, .. } => {
                for join in &table_with_joins.joins {
                    self.join(&join.join_operator);
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        match expr {
            Expr::Function(function) => {
                self.add(function.name.to_string().to_lowercase());
                if function.over.is_some() {
                    self.add("over");
                }
            }
            Expr::BinaryOp { op, .. } => self.add(format!("operator {op}").to_lowercase()),
            Expr::UnaryOp { op, .. } => self.add(format!("operator {op}").to_lowercase()),
            Expr::Cast { data_type, .. } => {
                let data_type = data_type.to_string().to_lowercase();
                let end = data_type.find(['(', '<', '[']).unwrap_or(data_type.len());
                self.add(format!("cast {}", data_type[..end].trim_end()));
            }
            Expr::TypedString(typed) => {
                self.add(format!("cast {}", typed.data_type).to_lowercase());
            }
            Expr::IsDistinctFrom(..) | Expr::IsNotDistinctFrom(..) => self.add("distinct from"),
            Expr::Like { .. } | Expr::ILike { .. } => self.add("like"),
            Expr::SimilarTo { .. } => self.add("similar to"),
            Expr::InList { .. } | Expr::InSubquery { .. } => self.add("in"),
            Expr::AnyOp { .. } | Expr::AllOp { .. } => self.add("any"),
            Expr::Between { .. } => self.add("between"),
            Expr::Extract { .. } => self.add("extract"),
            Expr::Substring { .. } => self.add("substring"),
            Expr::Trim { .. } => self.add("trim"),
            Expr::Position { .. } => self.add("position"),
            Expr::Overlay { .. } => self.add("overlay"),
            Expr::Ceil { .. } => self.add("ceil"),
            Expr::Floor { .. } => self.add("floor"),
            Expr::Interval(_) => self.add("interval"),
            Expr::AtTimeZone { .. } => self.add("at time zone"),
            Expr::Case { .. } => self.add("case"),
            Expr::Tuple(_) => self.add("row"),
            Expr::Array(_) => self.add("array"),
            Expr::CompoundFieldAccess { .. } => self.add("subscript"),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion_sql::sqlparser::ast::Statement;
    use datafusion_sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion_sql::sqlparser::parser::Parser;

    const CHANGES: Changes<'_> = &[
        ("to_char", 2),
        ("operator ||", 1),
        ("cast date", 3),
        ("using", 1),
        ("unnest", 1),
        ("case", 1),
        ("union", 2),
    ];

    fn used(sql: &str) -> Vec<String> {
        let statements = Parser::parse_sql(&PostgreSqlDialect {}, sql).unwrap();
        let Statement::Query(query) = &statements[0] else { panic!("{sql} is no query") };
        versions(std::iter::once(&**query), CHANGES)
    }

    #[test]
    fn only_changed_functions_and_constructs_count() {
        assert!(used("SELECT a + 1, to_date(b, 'YYYY') FROM t JOIN s ON t.k = s.k").is_empty());
        assert_eq!(used("SELECT To_Char(a, 'YYYY') FROM t"), ["to_char 2"]);
        assert_eq!(used("SELECT a || b, CAST(c AS DATE) FROM t"), ["operator || 1", "cast date 3"]);
    }

    #[test]
    fn uses_are_found_wherever_they_stand() {
        assert_eq!(used("SELECT 1 FROM (SELECT * FROM a JOIN b USING (k)) AS s"), ["using 1"]);
        assert_eq!(used("SELECT 1 EXCEPT SELECT * FROM a JOIN b USING (k)"), ["using 1"]);
        assert_eq!(
            used(
                "WITH w AS (SELECT DATE '2026-01-01') SELECT * FROM w WHERE EXISTS (SELECT x::date FROM t)"
            ),
            ["cast date 3"]
        );
        assert_eq!(used("SELECT * FROM t, UNNEST(t.a) AS u(x)"), ["unnest 1"]);
        assert_eq!(used("SELECT CASE WHEN a THEN 1 END FROM t"), ["case 1"]);
        assert_eq!(used("SELECT 1 FROM t WHERE a IN (SELECT 1 UNION ALL SELECT 2)"), ["union 2"]);
    }
}
