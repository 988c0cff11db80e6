//! The SELECT list and ORDER BY: wildcards, and the names of results.

use datafusion_common::Result;
use datafusion_sql::sqlparser::ast::{
    ExcludeSelectItem, Expr, OrderBy, OrderByKind, SelectItem, SelectItemQualifiedWildcardKind,
    WildcardAdditionalOptions,
};

use super::{ColumnOrigin, KnownColumns, Resolver, label, qualified, quoted, refusal};
use crate::plan::names::fold;

impl Resolver<'_> {
    /// ORDER BY: a name alone is a column of the result first.
    pub(super) fn order(&mut self, order_by: &mut OrderBy, names: Option<&[String]>) -> Result<()> {
        let OrderByKind::Expressions(sorts) = &mut order_by.kind else { return Ok(()) };
        for sort in sorts {
            let is_result = match &sort.expr {
                Expr::Identifier(name) => names.is_some_and(|names| names.contains(&fold(name))),
                _ => false,
            };
            if !is_result {
                self.walk(&mut sort.expr)?;
            }
        }
        Ok(())
    }

    pub(super) fn items(&mut self, items: &mut [SelectItem]) -> Result<()> {
        for item in items {
            if let SelectItem::UnnamedExpr(expr) = item {
                let name = match &*expr {
                    Expr::Identifier(name) => Some(name.clone()),
                    _ => None,
                };
                self.walk(expr)?;
                // An expression that stands for a name keeps the name.
                if let Some(alias) = name
                    && !matches!(expr, Expr::Identifier(_))
                    && !matches!(&*expr, Expr::CompoundIdentifier(parts)
                        if parts.last().is_some_and(|last| fold(last) == fold(&alias)))
                {
                    *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
                }
            } else {
                self.walk(item)?;
            }
        }
        Ok(())
    }

    pub(super) fn item_names(&mut self, items: &[SelectItem]) -> KnownColumns {
        let mut names = Vec::new();
        for item in items {
            match item {
                SelectItem::ExprWithAlias { alias, .. } => names.push(fold(alias)),
                SelectItem::UnnamedExpr(expr) => names.push(label::of(expr)),
                SelectItem::Wildcard(options) if is_plain(options) => {
                    let level = self.levels.last()?;
                    if level.is_opaque() {
                        return None;
                    }
                    names.extend(level.visible.iter().map(|v| v.name.clone()));
                }
                SelectItem::QualifiedWildcard(
                    SelectItemQualifiedWildcardKind::ObjectName(name),
                    options,
                ) if is_plain(options) => {
                    let name = name.0.last().and_then(|part| part.as_ident()).map(fold)?;
                    let relations = &self.levels.last()?.relations;
                    names.extend(relations.iter().find(|r| r.name == name)?.columns.clone()?);
                }
                _ => return None,
            }
        }
        Some(names)
    }

    /// The columns of `*` one by one.
    pub(super) fn expand_wildcards(&mut self, items: &mut Vec<SelectItem>) -> Result<()> {
        let mut out = Vec::new();
        for item in std::mem::take(items) {
            let SelectItem::Wildcard(options) = item else {
                out.push(item);
                continue;
            };
            let Some(left_out) = excluded(&options) else {
                let at = options.wildcard_token.0.span;
                let message = "* with REPLACE, RENAME or ILIKE over USING is not supported";
                return Err(refusal(at, message.to_string()));
            };
            for column in &self.top().visible {
                if left_out.contains(&column.name) {
                    continue;
                }
                out.push(match &column.place {
                    ColumnOrigin::Column(relation) => {
                        SelectItem::UnnamedExpr(qualified(relation, &column.name))
                    }
                    ColumnOrigin::Merged(expr) => SelectItem::ExprWithAlias {
                        expr: expr.as_ref().clone(),
                        alias: quoted(&column.name),
                    },
                    ColumnOrigin::All(relation, merged) => all_but(relation, merged),
                });
            }
        }
        *items = out;
        Ok(())
    }
}

/// All columns of a relation but for some.
pub(super) fn all_but(relation: &str, left_out: &[String]) -> SelectItem {
    let names = left_out.iter().map(|name| quoted(name).into()).collect();
    let exclude = (!left_out.is_empty()).then_some(ExcludeSelectItem::Multiple(names));
    SelectItem::QualifiedWildcard(
        SelectItemQualifiedWildcardKind::ObjectName(vec![quoted(relation)].into()),
        WildcardAdditionalOptions { opt_exclude: exclude, ..Default::default() },
    )
}

fn is_plain(options: &WildcardAdditionalOptions) -> bool {
    excluded(options).is_some_and(|names| names.is_empty())
}

/// The columns that a `*` leaves out; `None` where it does more than that.
fn excluded(options: &WildcardAdditionalOptions) -> Option<Vec<String>> {
    if options.opt_ilike.is_some()
        || options.opt_replace.is_some()
        || options.opt_rename.is_some()
        || options.opt_alias.is_some()
    {
        return None;
    }
    let mut names = Vec::new();
    if let Some(except) = &options.opt_except {
        names.push(fold(&except.first_element));
        names.extend(except.additional_elements.iter().map(fold));
    }
    let objects = match &options.opt_exclude {
        None => Vec::new(),
        Some(ExcludeSelectItem::Single(name)) => vec![name],
        Some(ExcludeSelectItem::Multiple(names)) => names.iter().collect(),
    };
    for object in objects {
        names.push(object.0.last().and_then(|part| part.as_ident()).map(fold)?);
    }
    Some(names)
}

/// In DISTINCT ON and its ORDER BY a name alone is a column of the result first: it becomes what that is.
pub(super) fn write_out_result(key: &mut Expr, items: &[SelectItem]) {
    let Expr::Identifier(name) = key else { return };
    let mut results = items.iter().filter_map(|item| match item {
        SelectItem::ExprWithAlias { expr, alias } if fold(alias) == fold(name) => Some(expr),
        _ => None,
    });
    if let (Some(expr), None) = (results.next(), results.next())
        // A number would be a place in the list.
        && !matches!(expr, Expr::Value(_))
    {
        *key = expr.clone();
    }
}
