//! The whole row of a relation as a value: a struct of its columns.
//!
//! Where an outer join shows no row of the relation, the value is NULL, not a struct of NULLs: a column
//! that is true in each of its rows tells the two apart.

use datafusion_common::Result;
use datafusion_sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion_sql::sqlparser::ast::{
    CaseWhen, ExcludeSelectItem, Expr, FunctionArg, FunctionArgExpr, Ident, Query, Select,
    SelectItem, SelectItemQualifiedWildcardKind, SetExpr, TableAlias, TableFactor, TableWithJoins,
    Value,
};

use super::{Relation, fold, qualified, quoted, refusal};
use crate::plan::sugar::{call, skeleton};

/// The column that is true in each row of a relation.
fn present(relation: &str) -> String {
    format!("__present_{relation}")
}

/// A relation's row as one value.
pub fn row(relation: &Relation, at: &Ident) -> Result<Expr> {
    let Some(columns) = &relation.columns else {
        let message = format!("{at} is a relation whose columns are not known here: name them");
        return Err(refusal(at.span, message));
    };
    let argument = |expr| FunctionArg::Unnamed(FunctionArgExpr::Expr(expr));
    let members = columns.iter().flat_map(|column| {
        let name = Expr::value(Value::SingleQuotedString(column.clone()));
        [argument(name), argument(qualified(&relation.name, column))]
    });
    let row = call("named_struct", members.collect())?;
    if !relation.padded {
        return Ok(row);
    }
    Ok(Expr::Case {
        case_token: AttachedToken::empty(),
        end_token: AttachedToken::empty(),
        operand: None,
        conditions: vec![CaseWhen {
            condition: qualified(&relation.name, &present(&relation.name)),
            result: row,
        }],
        else_result: None,
    })
}

/// Gives a relation of a SELECT the column that is true in each of its rows, which no `*` shows.
pub fn mark(select: &mut Select, relation: &str) -> Result<()> {
    for table in &mut select.from {
        in_joins(table, relation)?;
    }
    for item in &mut select.projection {
        let options = match item {
            SelectItem::Wildcard(options) => options,
            SelectItem::QualifiedWildcard(
                SelectItemQualifiedWildcardKind::ObjectName(name),
                options,
            ) if name.0.last().and_then(|part| part.as_ident()).map(fold).as_deref()
                == Some(relation) =>
            {
                options
            }
            _ => continue,
        };
        let hidden = quoted(&present(relation)).into();
        options.opt_exclude = Some(match options.opt_exclude.take() {
            None => ExcludeSelectItem::Multiple(vec![hidden]),
            Some(ExcludeSelectItem::Single(name)) => {
                ExcludeSelectItem::Multiple(vec![name, hidden])
            }
            Some(ExcludeSelectItem::Multiple(mut names)) => {
                names.push(hidden);
                ExcludeSelectItem::Multiple(names)
            }
        });
    }
    Ok(())
}

fn in_joins(table: &mut TableWithJoins, relation: &str) -> Result<()> {
    let joined = table.joins.iter_mut().map(|join| &mut join.relation);
    for factor in [&mut table.relation].into_iter().chain(joined) {
        in_factor(factor, relation)?;
    }
    Ok(())
}

fn in_factor(factor: &mut TableFactor, relation: &str) -> Result<()> {
    let (lateral, alias) = match &*factor {
        TableFactor::NestedJoin { alias: None, .. } => {
            if let TableFactor::NestedJoin { table_with_joins, .. } = factor {
                in_joins(table_with_joins, relation)?;
            }
            return Ok(());
        }
        TableFactor::Table { name, alias, .. } => {
            let own = name.0.last().and_then(|part| part.as_ident()).cloned();
            (false, alias.as_ref().map(|alias| alias.name.clone()).or(own))
        }
        TableFactor::Derived { lateral, alias, .. } => {
            (*lateral, alias.as_ref().map(|alias| alias.name.clone()))
        }
        TableFactor::UNNEST { alias, .. } => (true, alias.as_ref().map(|a| a.name.clone())),
        TableFactor::NestedJoin { alias, .. } => (false, alias.as_ref().map(|a| a.name.clone())),
        _ => return Ok(()),
    };
    let Some(name) = alias.filter(|name| fold(name) == relation) else { return Ok(()) };
    let mut query: Query =
        skeleton(&format!("SELECT *, true AS {} FROM __relation", present("x")))?;
    if let SetExpr::Select(select) = query.body.as_mut() {
        select.from[0].relation = factor.clone();
        if let Some(SelectItem::ExprWithAlias { alias, .. }) = select.projection.last_mut() {
            *alias = quoted(&present(relation));
        }
    }
    *factor = TableFactor::Derived {
        lateral,
        subquery: Box::new(query),
        alias: Some(TableAlias { explicit: true, name, columns: Vec::new(), at: None }),
        sample: None,
    };
    Ok(())
}
