//! A SELECT, aggregates of which stand in its sub-queries, as a SELECT over its groups.
//!
//! `SELECT k, (SELECT max(s.x + sum(o.v)) FROM s) FROM o GROUP BY k` becomes a query over
//! `(SELECT k AS __g0, sum(o.v) AS __a0 FROM o GROUP BY k)`, in which keys and aggregates are columns,
//! so that sub-queries may refer to them.

use std::ops::ControlFlow;

use datafusion_common::{DataFusionError, Result};
use datafusion_sql::sqlparser::ast::{
    Expr, GroupByExpr, Ident, OrderBy, Query, Select, SelectItem, SetExpr, Spanned, TableAlias,
    TableFactor, TableWithJoins, Value, VisitMut, VisitorMut,
};

use super::{SelectLevel, fold, label, qualified, quoted, refusal};
use crate::plan::sugar::skeleton;

/// The relation of a level's groups.
pub fn relation(level: usize) -> String {
    format!("__groups{level}")
}

/// The column of the groups' relation that an aggregate is.
pub fn aggregate(index: usize) -> String {
    format!("__a{index}")
}

fn key(index: usize) -> String {
    format!("__g{index}")
}

/// Puts a SELECT, with the names of its level qualified, on top of its groups.
pub fn on_top(
    select: &mut Select,
    order_by: Option<&mut OrderBy>,
    level: SelectLevel,
    is_aggregate: &dyn Fn(&str) -> bool,
) -> Result<()> {
    let keys = keys(select)?;
    let mut walk = OverGroups {
        relation: relation(level.id),
        keys: &keys,
        aggregates: level.aggregates.clone(),
        is_aggregate,
        level: &level,
        depth: 0,
        aggregates_within: 0,
    };
    for item in &mut select.projection {
        if let SelectItem::UnnamedExpr(expr) = item {
            let alias = quoted(&label::of(expr));
            walk.over(expr)?;
            *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
        } else {
            walk.over(item)?;
        }
    }
    walk.over(&mut select.having)?;
    walk.over(&mut select.qualify)?;
    walk.over(&mut select.distinct)?;
    if let Some(order_by) = order_by {
        let names: Vec<String> = select
            .projection
            .iter()
            .filter_map(|item| match item {
                SelectItem::ExprWithAlias { alias, .. } => Some(fold(alias)),
                _ => None,
            })
            .collect();
        walk.order(order_by, &names)?;
    }
    let aggregates = walk.aggregates;
    let name = relation(level.id);
    let mut query: Query = skeleton("SELECT 1")?;
    if let SetExpr::Select(inner) = query.body.as_mut() {
        let keys = keys.into_iter().enumerate().map(|(at, key_expr)| (key_expr, key(at)));
        let calls = aggregates.into_iter().enumerate().map(|(at, call)| (call, aggregate(at)));
        let items = keys.chain(calls);
        let items =
            items.map(|(expr, alias)| SelectItem::ExprWithAlias { expr, alias: quoted(&alias) });
        inner.projection = items.collect();
        inner.from = std::mem::take(&mut select.from);
        inner.selection = select.selection.take();
        let nothing = GroupByExpr::Expressions(Vec::new(), Vec::new());
        inner.group_by = std::mem::replace(&mut select.group_by, nothing);
    }
    select.selection = select.having.take();
    select.from = vec![TableWithJoins {
        relation: TableFactor::Derived {
            lateral: false,
            subquery: Box::new(query),
            alias: Some(TableAlias {
                explicit: true,
                name: quoted(&name),
                columns: Vec::new(),
                at: None,
            }),
            sample: None,
        },
        joins: Vec::new(),
    }];
    Ok(())
}

/// The keys that are grouped by; numbers and names of columns of the result are written out.
fn keys(select: &mut Select) -> Result<Vec<Expr>> {
    let items = select.projection.clone();
    let GroupByExpr::Expressions(groups, _) = &mut select.group_by else {
        let at = select.group_by.span();
        let message = "GROUP BY ALL with an aggregate in a sub-query is not supported";
        return Err(refusal(at, message.to_string()));
    };
    let mut keys: Vec<Expr> = Vec::new();
    for group in groups {
        match group {
            Expr::Rollup(sets) | Expr::Cube(sets) | Expr::GroupingSets(sets) => {
                for expr in sets.iter_mut().flatten() {
                    written_out(expr, &items);
                    keys.push(expr.clone());
                }
            }
            expr => {
                written_out(expr, &items);
                keys.push(expr.clone());
            }
        }
    }
    let mut unique: Vec<Expr> = Vec::new();
    for expr in keys {
        if !unique.contains(&expr) {
            unique.push(expr);
        }
    }
    Ok(unique)
}

fn written_out(key: &mut Expr, items: &[SelectItem]) {
    let item = match &*key {
        Expr::Value(value) => match &value.value {
            Value::Number(number, _) => {
                number.parse::<usize>().ok().and_then(|n| items.get(n.checked_sub(1)?))
            }
            _ => None,
        },
        Expr::Identifier(name) => items.iter().find(|item| {
            matches!(item, SelectItem::ExprWithAlias { alias, .. } if fold(alias) == fold(name))
        }),
        _ => None,
    };
    if let Some(SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = item {
        *key = expr.clone();
    }
}

/// Replaces keys and aggregates by the columns that they are.
struct OverGroups<'a> {
    relation: String,
    keys: &'a [Expr],
    aggregates: Vec<Expr>,
    is_aggregate: &'a dyn Fn(&str) -> bool,
    level: &'a SelectLevel,
    /// Number of sub-queries around.
    depth: usize,
    /// Number of columns of the groups that stand in sub-queries.
    aggregates_within: usize,
}

impl OverGroups<'_> {
    fn over(&mut self, node: &mut impl VisitMut) -> Result<()> {
        match node.visit(self) {
            ControlFlow::Break(error) => Err(error),
            ControlFlow::Continue(()) => Ok(()),
        }
    }

    /// Names of the result's columns stay in ORDER BY.
    fn order(&mut self, order_by: &mut OrderBy, names: &[String]) -> Result<()> {
        use datafusion_sql::sqlparser::ast::OrderByKind;
        let OrderByKind::Expressions(sorts) = &mut order_by.kind else { return Ok(()) };
        for sort in sorts {
            let is_result =
                matches!(&sort.expr, Expr::Identifier(name) if names.contains(&fold(name)));
            if !is_result {
                let around = self.aggregates_within;
                self.over(&mut sort.expr)?;
                if self.aggregates_within > around {
                    let at = sort.expr.span();
                    let message =
                        "ORDER BY an aggregate in a sub-query: select it, and order by its name";
                    return Err(refusal(at, message.to_string()));
                }
            }
        }
        Ok(())
    }

    fn replacement(&mut self, expr: &Expr) -> Result<Option<Expr>> {
        if let Some(at) = self.keys.iter().position(|key| key == expr) {
            return Ok(Some(qualified(&self.relation, &key(at))));
        }
        match expr {
            Expr::Function(function) if self.depth == 0 && function.over.is_none() => {
                let name = function.name.to_string().to_lowercase();
                if !(self.is_aggregate)(&name) && name != "grouping" {
                    return Ok(None);
                }
                let known = self.aggregates.iter().position(|aggregate| aggregate == expr);
                let index = known.unwrap_or_else(|| {
                    self.aggregates.push(expr.clone());
                    self.aggregates.len() - 1
                });
                Ok(Some(qualified(&self.relation, &aggregate(index))))
            }
            Expr::CompoundIdentifier(parts) => match parts.first().map(fold) {
                Some(name) if name == self.relation => {
                    self.aggregates_within += usize::from(self.depth > 0);
                    Ok(None)
                }
                Some(name) if self.level.has_relation(&name) => Err(not_grouped(expr, parts)),
                _ => Ok(None),
            },
            _ => Ok(None),
        }
    }
}

fn not_grouped(expr: &Expr, parts: &[Ident]) -> DataFusionError {
    let at = parts.last().map_or_else(|| expr.span(), |part| part.span);
    let name: Vec<&str> = parts.iter().map(|part| part.value.as_str()).collect();
    let message = format!(
        "column {} must appear in the GROUP BY clause or be used in an aggregate function",
        name.join(".")
    );
    refusal(at, message)
}

impl VisitorMut for OverGroups<'_> {
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
        match self.replacement(expr) {
            Ok(None) => ControlFlow::Continue(()),
            Ok(Some(replacement)) => {
                *expr = replacement;
                ControlFlow::Continue(())
            }
            Err(error) => ControlFlow::Break(error),
        }
    }
}
