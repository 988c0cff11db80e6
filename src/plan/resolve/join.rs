//! USING and NATURAL as ON, and the columns that they merge.
//!
//! A merged column is the left one where the join shows all left rows, or only pairs; the right one where
//! it shows all right rows; and whichever there is where it shows both. Merged columns come first in
//! `*`, then the left relation's, then the right one's.

use datafusion_common::Result;
use datafusion_sql::sqlparser::ast::{
    BinaryOperator, Expr, FunctionArg, FunctionArgExpr, Ident, Join, JoinConstraint, JoinOperator,
    Query, SelectItem, SetExpr, Spanned, TableAlias, TableFactor, TableWithJoins, Value,
};
use datafusion_sql::sqlparser::tokenizer::Span;

use super::{ColumnOrigin, KnownColumns, Resolver, Visible, fold, qualified, quoted, refusal};
use crate::plan::functions::merged_with;
use crate::plan::sugar::{call, skeleton};

/// Which rows a join shows beside the pairs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    Pairs,
    Left,
    Right,
    Both,
}

fn shown(operator: &mut JoinOperator) -> Option<(Shown, &mut JoinConstraint)> {
    Some(match operator {
        JoinOperator::Join(constraint) | JoinOperator::Inner(constraint) => {
            (Shown::Pairs, constraint)
        }
        JoinOperator::Left(constraint) | JoinOperator::LeftOuter(constraint) => {
            (Shown::Left, constraint)
        }
        JoinOperator::Right(constraint) | JoinOperator::RightOuter(constraint) => {
            (Shown::Right, constraint)
        }
        JoinOperator::FullOuter(constraint) => (Shown::Both, constraint),
        JoinOperator::CrossJoin(constraint) => (Shown::Pairs, constraint),
        _ => return None,
    })
}

impl Resolver<'_> {
    /// Walks a list of joined relations; the columns that it shows.
    pub(super) fn table_with_joins(&mut self, table: &mut TableWithJoins) -> Result<Vec<Visible>> {
        let (before, first) = (self.top().visible.len(), self.top().relations.len());
        let mut left = self.factor(&mut table.relation)?;
        for join in &mut table.joins {
            self.show(before, &left);
            let middle = self.top().relations.len();
            let right = self.factor(&mut join.relation)?;
            left = self.join(join, left, right, before)?;
            if let Some((kind, _)) = shown(&mut join.join_operator) {
                let relations = &mut self.top().relations;
                for (at, relation) in relations.iter_mut().enumerate().skip(first) {
                    relation.padded |= match kind {
                        Shown::Pairs => false,
                        Shown::Left => at >= middle,
                        Shown::Right => at < middle,
                        Shown::Both => true,
                    };
                }
            }
        }
        self.top().visible.truncate(before);
        Ok(left)
    }

    fn show(&mut self, before: usize, columns: &[Visible]) {
        self.top().visible.truncate(before);
        self.top().visible.extend(columns.iter().cloned());
    }

    fn join(
        &mut self,
        join: &mut Join,
        left: Vec<Visible>,
        right: Vec<Visible>,
        before: usize,
    ) -> Result<Vec<Visible>> {
        let at = join.relation.span();
        let both = || left.iter().chain(&right).cloned().collect::<Vec<Visible>>();
        if let JoinOperator::LeftSemi(_) | JoinOperator::LeftAnti(_) = join.join_operator {
            return Ok(left);
        }
        let Some((kind, constraint)) = shown(&mut join.join_operator) else { return Ok(both()) };
        let keys: Vec<Ident> = match constraint {
            JoinConstraint::None => return Ok(both()),
            JoinConstraint::On(condition) => {
                let all = both();
                self.show(before, &all);
                self.walk(condition)?;
                return Ok(all);
            }
            JoinConstraint::Using(names) => {
                names.iter().filter_map(|n| n.0.last()?.as_ident().cloned()).collect()
            }
            JoinConstraint::Natural => natural_keys(&left, &right, at)?,
        };
        let (mut left, mut right) = (left, right);
        let (mut merged, mut conditions) = (Vec::new(), Vec::new());
        for key in &keys {
            let l = take(&mut left, key, "left")?;
            let r = take(&mut right, key, "right")?;
            conditions.push(binary(l.clone(), BinaryOperator::Eq, r.clone()));
            let expr = match kind {
                Shown::Pairs | Shown::Left => merged_with(l, r),
                Shown::Right => merged_with(r, l),
                Shown::Both => {
                    let argument = |e| FunctionArg::Unnamed(FunctionArgExpr::Expr(e));
                    let (left, right) = (merged_with(l.clone(), r.clone()), merged_with(r, l));
                    call("coalesce", vec![argument(left), argument(right)])?
                }
            };
            merged.push(Visible { name: fold(key), place: ColumnOrigin::Merged(Box::new(expr)) });
        }
        let condition = conditions.into_iter().reduce(|a, b| binary(a, BinaryOperator::And, b));
        let always = || Expr::value(Value::Boolean(true));
        *constraint = JoinConstraint::On(condition.unwrap_or_else(always));
        merged.extend(left);
        merged.extend(right);
        Ok(merged)
    }

    /// A join in parentheses with a name: a relation of the columns that it shows.
    pub(super) fn nested_join(
        &mut self,
        factor: &mut TableFactor,
        alias: TableAlias,
        before: usize,
        shown: Vec<Visible>,
    ) -> Result<Vec<Visible>> {
        let TableFactor::NestedJoin { table_with_joins, .. } = &*factor else {
            return Ok(shown);
        };
        self.top().relations.truncate(before);
        let known = shown.iter().all(|v| !matches!(v.place, ColumnOrigin::All(..)));
        let names: KnownColumns = known.then(|| shown.iter().map(|v| v.name.clone()).collect());
        let columns = super::relations::renamed(names, &alias);
        let name = fold(&alias.name);
        if shown.iter().any(|v| matches!(v.place, ColumnOrigin::Merged(_))) {
            let items = shown.iter().map(|column| match &column.place {
                ColumnOrigin::Column(relation) => {
                    SelectItem::UnnamedExpr(qualified(relation, &column.name))
                }
                ColumnOrigin::Merged(expr) => SelectItem::ExprWithAlias {
                    expr: expr.as_ref().clone(),
                    alias: quoted(&column.name),
                },
                ColumnOrigin::All(relation, merged) => super::items::all_but(relation, merged),
            });
            let mut query: Query = skeleton("SELECT 1")?;
            if let SetExpr::Select(select) = query.body.as_mut() {
                select.projection = items.collect();
                select.from = vec![table_with_joins.as_ref().clone()];
            }
            *factor = TableFactor::Derived {
                lateral: false,
                subquery: Box::new(query),
                alias: Some(alias),
                sample: None,
            };
        }
        Ok(self.add(name, columns))
    }
}

fn binary(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    Expr::BinaryOp { left: Box::new(left), op, right: Box::new(right) }
}

fn natural_keys(left: &[Visible], right: &[Visible], at: Span) -> Result<Vec<Ident>> {
    if left.iter().chain(right).any(|v| matches!(v.place, ColumnOrigin::All(..))) {
        let message = "NATURAL JOIN with a relation whose columns are not known here: name them";
        return Err(refusal(at, message.to_string()));
    }
    let mut keys: Vec<Ident> = Vec::new();
    for column in left {
        let name = &column.name;
        if right.iter().any(|v| v.name == *name) && !keys.iter().any(|k| k.value == *name) {
            keys.push(Ident { span: at, ..quoted(name) });
        }
    }
    Ok(keys)
}

/// Takes the one column of this name out of a side's columns.
fn take(side: &mut Vec<Visible>, key: &Ident, which: &str) -> Result<Expr> {
    let name = fold(key);
    let found: Vec<usize> =
        side.iter().enumerate().filter(|(_, v)| v.name == name).map(|(at, _)| at).collect();
    match found.as_slice() {
        [at] => Ok(match side.remove(*at).place {
            ColumnOrigin::Column(relation) => qualified(&relation, &name),
            ColumnOrigin::Merged(expr) => *expr,
            ColumnOrigin::All(relation, _) => qualified(&relation, &name),
        }),
        [] => {
            let mut unknown = side.iter_mut().filter_map(|v| match &mut v.place {
                ColumnOrigin::All(relation, merged) if !relation.is_empty() => {
                    Some((relation, merged))
                }
                _ => None,
            });
            match (unknown.next(), unknown.next()) {
                // Its columns are not known here; the planner knows whether this is one.
                (Some((relation, merged)), None) => {
                    merged.push(name.clone());
                    Ok(qualified(relation, &name))
                }
                _ => {
                    let message = format!("there is no column {key} on the {which} side of USING");
                    Err(refusal(key.span, message))
                }
            }
        }
        _ => {
            let message = format!("there are several columns {key} on the {which} side of USING");
            Err(refusal(key.span, message))
        }
    }
}
