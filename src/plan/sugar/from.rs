//! Functions in FROM that unnest an array: `json_array_elements(j)`, `json_each(j)`,
//! `generate_series(a, b)` and the like.

use std::ops::ControlFlow;

use datafusion_common::{DataFusionError, Result};
use datafusion_sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, Join, JoinOperator,
    Query, SelectItem, SetExpr, TableAlias, TableFactor, VisitMut, VisitorMut,
};

use super::{call as call_of, skeleton};

/// The functions, beside UNNEST itself.
pub const FUNCTIONS: [&str; 15] = [
    "generate_series",
    "generate_subscripts",
    "regexp_matches",
    "regexp_split_to_table",
    "string_to_table",
    "json_array_elements",
    "json_array_elements_text",
    "json_each",
    "json_each_text",
    "json_object_keys",
    "jsonb_array_elements",
    "jsonb_array_elements_text",
    "jsonb_each",
    "jsonb_each_text",
    "jsonb_object_keys",
];

/// Such a function is UNNEST of the array that it gives.
pub(super) fn unnested(relation: &mut TableFactor) {
    let (call, alias, with_ordinality) = match &*relation {
        TableFactor::Table { name, args: Some(args), alias, with_ordinality, .. } => {
            ((name, &args.args), alias, *with_ordinality)
        }
        TableFactor::Function { name, args, alias, .. } => ((name, args), alias, false),
        _ => return,
    };
    let (name, args) = (call.0.to_string().to_lowercase(), call.1.as_slice());
    let arguments = match name.as_str() {
        "generate_series"
        | "generate_subscripts"
        | "regexp_matches"
        | "regexp_split_to_table"
        | "string_to_table" => 2..=3,
        _ => 1..=1,
    };
    if !FUNCTIONS.contains(&name.as_str()) || !arguments.contains(&args.len()) {
        return;
    }
    let Ok(array) = call_of(&name, args.to_vec()) else { return };
    *relation = TableFactor::UNNEST {
        alias: alias.clone(),
        array_exprs: vec![array],
        with_offset: false,
        with_offset_alias: None,
        with_ordinality,
    };
}

/// `FULL JOIN unnest(…) AS e ON condition`: a sub-query, since the array refers to no row beside it.
pub(super) fn apart(join: &mut Join) -> Result<()> {
    if !matches!(
        join.join_operator,
        JoinOperator::Right(_) | JoinOperator::RightOuter(_) | JoinOperator::FullOuter(_)
    ) {
        return Ok(());
    }
    let TableFactor::UNNEST { alias, .. } = &join.relation else { return Ok(()) };
    let named = |name: &Ident| TableAlias {
        explicit: true,
        name: name.clone(),
        columns: Vec::new(),
        at: None,
    };
    let alias = alias.as_ref().map_or_else(|| named(&Ident::new("unnest")), |a| named(&a.name));
    let mut query = skeleton("SELECT * FROM __elements")?;
    if let SetExpr::Select(select) = query.body.as_mut() {
        select.from[0].relation = join.relation.clone();
    }
    join.relation = TableFactor::Derived {
        lateral: false,
        subquery: Box::new(query),
        alias: Some(alias),
        sample: None,
    };
    Ok(())
}

/// Functions that give rows, in the SELECT list: UNNEST of the array that they give.
pub(super) fn in_select_list(items: &mut [SelectItem]) -> Result<()> {
    let mut walk = SetReturning { depth: 0, within_unnest: 0 };
    for item in items {
        // The column is called as the function is.
        let name = match item {
            SelectItem::UnnamedExpr(Expr::Function(function)) if gives_rows(function) => {
                function.name.0.last().and_then(|part| part.as_ident()).cloned()
            }
            _ => None,
        };
        if let ControlFlow::Break(error) = item.visit(&mut walk) {
            return Err(error);
        }
        if let (Some(alias), SelectItem::UnnamedExpr(expr)) = (name, &*item) {
            *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
        }
    }
    Ok(())
}

fn gives_rows(function: &Function) -> bool {
    FUNCTIONS.contains(&function.name.to_string().to_lowercase().as_str())
}

struct SetReturning {
    /// Number of sub-queries around.
    depth: usize,
    within_unnest: usize,
}

fn is_unnest(expr: &Expr) -> bool {
    matches!(expr, Expr::Function(f) if f.name.to_string().eq_ignore_ascii_case("unnest"))
}

/// Whether an expression gives rows in a SELECT list.
pub(super) fn is_set_returning(expr: &Expr) -> bool {
    is_unnest(expr) || matches!(expr, Expr::Function(function) if gives_rows(function))
}

impl VisitorMut for SetReturning {
    type Break = DataFusionError;

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<DataFusionError> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<DataFusionError> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<DataFusionError> {
        if is_unnest(expr) {
            self.within_unnest += 1;
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<DataFusionError> {
        if is_unnest(expr) {
            self.within_unnest -= 1;
            return ControlFlow::Continue(());
        }
        let Expr::Function(function) = &*expr else { return ControlFlow::Continue(()) };
        let has_list = matches!(function.args, FunctionArguments::List(_));
        if self.depth > 0 || self.within_unnest > 0 || !has_list || !gives_rows(function) {
            return ControlFlow::Continue(());
        }
        let array = FunctionArg::Unnamed(FunctionArgExpr::Expr(expr.clone()));
        match call_of("unnest", vec![array]) {
            Ok(call) => {
                *expr = call;
                ControlFlow::Continue(())
            }
            Err(error) => ControlFlow::Break(error),
        }
    }
}
