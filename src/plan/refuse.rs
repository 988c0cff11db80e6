//! Constructs that parse but are not supported, found in the syntax tree, which knows where they
//! stand.

use std::ops::ControlFlow;

use datafusion_sql::sqlparser::ast::{
    DuplicateTreatment, Expr, Function, FunctionArguments, GroupByExpr, JoinOperator, Query,
    Select, SetExpr, SetOperator, SetQuantifier, Spanned, TableFactor, Visit, Visitor,
};

use super::diagnostic::Refusal;
use super::size;
use super::sugar::UNNESTED_FUNCTIONS;

/// The functions that FROM knows, beside those that unnest an array.
const TABLE_FUNCTIONS: [&str; 3] = ["tumble", "hop", "session"];

fn table_functions() -> impl Iterator<Item = &'static str> {
    TABLE_FUNCTIONS.into_iter().chain(UNNESTED_FUNCTIONS)
}

/// Everything in a query that is refused.
pub fn refusals(query: &Query) -> Vec<Refusal> {
    let mut walk = RefusalWalk { found: Vec::new(), depth: 0 };
    let _ = query.visit(&mut walk);
    walk.found
}

struct RefusalWalk {
    found: Vec<Refusal>,
    /// Number of expressions around the one that is visited.
    depth: usize,
}

impl RefusalWalk {
    fn refuse(&mut self, at: &impl Spanned, message: impl Into<String>) {
        self.found.push(Refusal::new(at.span(), message));
    }

    fn set_expr(&mut self, body: &SetExpr) {
        match body {
            SetExpr::Select(select) => self.select(select),
            SetExpr::SetOperation { op, set_quantifier, left, right } => {
                if matches!(
                    set_quantifier,
                    SetQuantifier::AllByName | SetQuantifier::DistinctByName
                ) && *op != SetOperator::Union
                {
                    self.refuse(body, format!("{op} BY NAME is not supported: name the columns"));
                }
                self.set_expr(left);
                self.set_expr(right);
            }
            // Queries in parentheses are visited as queries.
            SetExpr::Query(_) | SetExpr::Values(_) | SetExpr::Table(_) => {}
            other => self.refuse(other, "only SELECT and VALUES have rows to keep"),
        }
    }

    fn select(&mut self, select: &Select) {
        if select.top.is_some() {
            self.refuse(select, "TOP is not supported: LIMIT is");
        }
        if let Some(into) = &select.into {
            self.refuse(into, "SELECT INTO is not supported");
        }
        for view in &select.lateral_views {
            self.refuse(&view.lateral_view, "LATERAL VIEW is not supported: UNNEST is");
        }
        if let GroupByExpr::Expressions(_, modifiers) | GroupByExpr::All(modifiers) =
            &select.group_by
            && !modifiers.is_empty()
        {
            self.refuse(
                select,
                "GROUP BY … WITH ROLLUP, CUBE or TOTALS is not supported: GROUP BY ROLLUP (…) is",
            );
        }
        let sets = size::grouping_sets(&select.group_by);
        if sets > size::GROUPING_SETS_MAX {
            let max = size::GROUPING_SETS_MAX;
            let at = select.group_by.span();
            let refusal = Refusal::new(at, format!("GROUP BY has more than {max} grouping sets"));
            let hint = "each row is kept once for each set: name those that are read";
            self.found.push(refusal.with_hint(hint));
        }
        for table in &select.from {
            for join in &table.joins {
                match &join.join_operator {
                    JoinOperator::CrossApply | JoinOperator::OuterApply => {
                        self.refuse(
                            &join.relation,
                            "APPLY is not supported: LATERAL is the standard",
                        );
                    }
                    _ => {}
                }
            }
        }
    }

    fn function(&mut self, function: &Function) {
        let name = function.name.to_string().to_lowercase();
        if let FunctionArguments::List(list) = &function.args {
            let distinct = list.duplicate_treatment == Some(DuplicateTreatment::Distinct);
            if name == "count" && distinct && list.args.len() > 1 {
                self.refuse(function, "count(DISTINCT …) takes one argument: make it a STRUCT");
            }
        }
        match name.as_str() {
            "current_time" | "localtime" => self.refuse(
                function,
                format!("{name} comes round again every day: compare with now() or current_date"),
            ),
            "to_number" => self.refuse(
                function,
                "to_number is not supported: regexp_replace(x, '[^0-9.-]', '', 'g') leaves the digits \
                 of a text, and CAST(… AS DECIMAL(p,s)) reads them",
            ),
            "random" | "uuid" | "gen_random_uuid" | "current_user" => self.refuse(
                function,
                format!(
                    "{name}() gives another value each time, so a view over it has no exact content"
                ),
            ),
            _ => {}
        }
    }
}

impl Visitor for RefusalWalk {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let operations = size::set_operations(&query.body);
        if operations > size::SET_OPERATIONS_MAX {
            let max = size::SET_OPERATIONS_MAX;
            let message = format!("a query has {operations} set operations, more than {max}");
            self.refuse(query, message);
            return ControlFlow::Break(());
        }
        if !query.locks.is_empty() {
            self.refuse(query, "FOR UPDATE has no meaning in a view");
        }
        self.set_expr(&query.body);
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        match factor {
            TableFactor::Table { name, args: Some(_), .. } | TableFactor::Function { name, .. }
                if !table_functions().any(|known| name.to_string().eq_ignore_ascii_case(known)) =>
            {
                let known = table_functions().collect::<Vec<_>>().join(", ");
                self.refuse(factor, format!("{name}(…) is no function in FROM: {known} are"));
            }
            TableFactor::Table { sample: Some(_), .. } => {
                self.refuse(factor, "TABLESAMPLE has no exact content");
            }
            TableFactor::Pivot { .. }
            | TableFactor::Unpivot { .. }
            | TableFactor::MatchRecognize { .. }
            | TableFactor::JsonTable { .. }
            | TableFactor::XmlTable { .. } => {
                self.refuse(factor, "this table expression is not supported");
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        self.depth += 1;
        if self.depth > size::EXPRESSION_DEPTH_MAX {
            let max = size::EXPRESSION_DEPTH_MAX;
            let message = format!("a chain of more than {max} operators");
            let hint = "IN (…) and array_has compare with many values";
            self.found.push(Refusal::new(expr.span(), message).with_hint(hint));
            return ControlFlow::Break(());
        }
        if let Expr::Function(function) = expr {
            self.function(function);
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, _: &Expr) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }
}
