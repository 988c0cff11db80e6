//! `SELECT a.x1 AS x0, generate_series(1, 2) + a.x0`: an item's name that is also the name of a column beside
//! what gives rows.
//!
//! DataFusion projects the items and the columns beside such functions together, where the two names
//! would be ambiguous. The item gets a name of its own, and a SELECT around gives it the other one back.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion_common::{Result, plan_err};
use datafusion_sql::sqlparser::ast::{
    Distinct, Expr, GroupByExpr, Ident, OrderBy, OrderByKind, Query, Select, SelectItem, SetExpr,
    TableFactor, Visit, Visitor,
};

use super::from::is_set_returning;
use super::skeleton;
use crate::plan::names::fold;
use crate::plan::resolve::column_name;

/// The relation that the SELECT around reads.
const INNER: &str = "__beside";

/// The query with such names in a SELECT around it.
pub(super) fn apart(query: &mut Query) -> Result<()> {
    let SetExpr::Select(select) = query.body.as_mut() else {
        return branches(&mut query.body);
    };
    let Some(names) = hide(select, query.order_by.as_mut()) else { return Ok(()) };
    let inner = std::mem::replace(query, skeleton("SELECT 1")?);
    *query = around(inner, &names)?;
    Ok(())
}

fn branches(body: &mut SetExpr) -> Result<()> {
    match body {
        SetExpr::SetOperation { left, right, .. } => {
            branches(left)?;
            branches(right)
        }
        SetExpr::Select(select) => {
            let Some(names) = hide(select, None) else { return Ok(()) };
            let mut inner = skeleton("SELECT 1")?;
            inner.body = Box::new(SetExpr::Select(select.clone()));
            *body = *around(inner, &names)?.body;
            Ok(())
        }
        _ => Ok(()),
    }
}

/// An item's name inside, and outside.
type ItemNames = (Ident, Ident);

/// Hides the names of items that are ambiguous; the names of all items, if there are any such.
fn hide(select: &mut Select, order_by: Option<&mut OrderBy>) -> Option<Vec<ItemNames>> {
    let beside = names_beside_rows(&select.projection);
    let mut taken = names_of_keys(&select.group_by);
    // An item under its own name is no other column.
    taken.extend(select.projection.iter().filter_map(|item| match item {
        SelectItem::UnnamedExpr(expr) => own_name(expr).map(|name| fold(&name)),
        _ => None,
    }));
    let hides = |alias: &Ident| beside.contains(&fold(alias)) && !taken.contains(&fold(alias));
    let is_hidden =
        |item: &SelectItem| matches!(item, SelectItem::ExprWithAlias { alias, .. } if hides(alias));
    if !select.projection.iter().any(is_hidden) {
        return None;
    }
    let mut names: Vec<ItemNames> = Vec::new();
    for (at, item) in select.projection.iter().enumerate() {
        let hidden = || Ident::with_quote('"', format!("__beside{at}"));
        names.push(match item {
            SelectItem::ExprWithAlias { alias, .. } if hides(alias) => (hidden(), alias.clone()),
            SelectItem::ExprWithAlias { alias, .. } => (alias.clone(), alias.clone()),
            SelectItem::UnnamedExpr(expr) => match own_name(expr) {
                Some(name) => (name.clone(), name),
                None => (hidden(), Ident::with_quote('"', column_name(expr))),
            },
            // Its columns are not known here.
            _ => return None,
        });
    }
    let distinct: BTreeSet<String> = names.iter().map(|(inside, _)| fold(inside)).collect();
    if distinct.len() != names.len() {
        return None;
    }
    for (item, (inside, _)) in select.projection.iter_mut().zip(&names) {
        match item {
            SelectItem::ExprWithAlias { alias, .. } => *alias = inside.clone(),
            SelectItem::UnnamedExpr(expr) if own_name(expr).is_none() => {
                *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias: inside.clone() };
            }
            _ => {}
        }
    }
    let rename = |expr: &mut Expr| {
        if let Expr::Identifier(name) = expr
            && let Some((inside, _)) = names.iter().find(|(_, outside)| fold(outside) == fold(name))
        {
            *name = inside.clone();
        }
    };
    if let Some(Distinct::On(keys)) = &mut select.distinct {
        keys.iter_mut().for_each(rename);
    }
    if let Some(OrderByKind::Expressions(sorts)) = order_by.map(|order| &mut order.kind) {
        sorts.iter_mut().for_each(|sort| rename(&mut sort.expr));
    }
    Some(names)
}

/// `SELECT inside AS outside, … FROM (inner)`.
fn around(inner: Query, names: &[ItemNames]) -> Result<Query> {
    let mut outer = skeleton(&format!("SELECT 1 FROM (SELECT 1) AS {INNER}"))?;
    let SetExpr::Select(select) = outer.body.as_mut() else {
        return plan_err!("a SELECT is a SELECT");
    };
    let item = |(inside, outside): &ItemNames| SelectItem::ExprWithAlias {
        expr: Expr::CompoundIdentifier(vec![Ident::new(INNER), inside.clone()]),
        alias: outside.clone(),
    };
    select.projection = names.iter().map(item).collect();
    if let TableFactor::Derived { subquery, .. } = &mut select.from[0].relation {
        **subquery = inner;
    }
    Ok(outer)
}

/// The name that a column has by itself.
fn own_name(expr: &Expr) -> Option<Ident> {
    match expr {
        Expr::Identifier(name) => Some(name.clone()),
        Expr::CompoundIdentifier(parts) => parts.last().cloned(),
        _ => None,
    }
}

fn names_of_keys(group_by: &GroupByExpr) -> BTreeSet<String> {
    let mut names = NamedColumns::default();
    if let GroupByExpr::Expressions(keys, _) = group_by {
        let _ = keys.visit(&mut names);
    }
    names.found
}

/// The names of the columns in all items, if one of them gives rows.
fn names_beside_rows(items: &[SelectItem]) -> BTreeSet<String> {
    let mut names = NamedColumns::default();
    let _ = items.iter().try_for_each(|item| match item.visit(&mut names) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(()),
    });
    if names.gives_rows { names.found } else { BTreeSet::new() }
}

/// The names of columns in an expression.
#[derive(Default)]
struct NamedColumns {
    found: BTreeSet<String>,
    gives_rows: bool,
    /// Number of sub-queries around.
    depth: usize,
}

impl Visitor for NamedColumns {
    type Break = ();

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        match expr {
            Expr::Identifier(name) => drop(self.found.insert(fold(name))),
            Expr::CompoundIdentifier(parts) => self.found.extend(parts.last().map(fold)),
            _ if self.depth == 0 && is_set_returning(expr) => self.gives_rows = true,
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
