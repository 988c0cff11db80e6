//! Names of columns that have none of their own, in a sub-query: as in PostgreSQL, the name of the function
//! or the type at their outside.

use datafusion_sql::sqlparser::ast::{
    AccessExpr, DataType, Expr, FunctionArguments, Ident, Query, SelectItem, SetExpr, Subscript,
};

use super::{SelectLevel, Use, fold, quoted};

/// PostgreSQL's name for an expression that has no name to go by.
const UNKNOWN: &str = "?column?";

/// The name of an expression's column.
pub fn of(expr: &Expr) -> String {
    strong(expr).or_else(|| weak(expr)).unwrap_or_else(|| UNKNOWN.to_string())
}

/// A name that goes before that of a cast around the expression.
fn strong(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Identifier(name) => Some(fold(name)),
        Expr::CompoundIdentifier(parts) => parts.last().map(fold),
        Expr::Nested(inner) | Expr::Cast { expr: inner, .. } => strong(inner),
        Expr::Collate { expr, .. } => strong(expr),
        Expr::CompoundFieldAccess { root, access_chain } => match access_chain.last() {
            Some(AccessExpr::Dot(Expr::Identifier(name))) => Some(fold(name)),
            Some(AccessExpr::Subscript(Subscript::Index { .. } | Subscript::Slice { .. })) => {
                strong(root)
            }
            _ => None,
        },
        Expr::Function(function) => {
            let name = function.name.0.last().and_then(|part| part.as_ident()).map(fold)?;
            match &function.args {
                FunctionArguments::Subquery(_) if name == "array" => Some("array".to_string()),
                _ => Some(if name == "make_array" { "array".to_string() } else { name }),
            }
        }
        Expr::Case { else_result: Some(last), .. } => strong(last),
        Expr::Extract { .. } => Some("extract".to_string()),
        Expr::Position { .. } => Some("position".to_string()),
        Expr::Substring { .. } => Some("substring".to_string()),
        Expr::Overlay { .. } => Some("overlay".to_string()),
        Expr::Trim { .. } => Some("btrim".to_string()),
        Expr::Ceil { .. } => Some("ceil".to_string()),
        Expr::Floor { .. } => Some("floor".to_string()),
        Expr::AtTimeZone { .. } => Some("timezone".to_string()),
        Expr::Exists { .. } => Some("exists".to_string()),
        Expr::Array(_) => Some("array".to_string()),
        Expr::Tuple(_) => Some("row".to_string()),
        Expr::Subquery(query) => first_column(query),
        _ => None,
    }
}

fn weak(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Nested(inner) | Expr::Collate { expr: inner, .. } => weak(inner),
        Expr::Case { .. } => Some("case".to_string()),
        Expr::Interval(_) => Some("interval".to_string()),
        Expr::Cast { expr, data_type, .. } => weak(expr).or_else(|| type_name(data_type)),
        Expr::TypedString(typed) => type_name(&typed.data_type),
        _ => None,
    }
}

fn type_name(data_type: &DataType) -> Option<String> {
    let text = data_type.to_string().to_lowercase();
    let word: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    Some(match word.as_str() {
        "" => return None,
        "int" | "integer" => "int4".to_string(),
        "bigint" => "int8".to_string(),
        "smallint" => "int2".to_string(),
        "double" | "float" => "float8".to_string(),
        "real" => "float4".to_string(),
        "boolean" => "bool".to_string(),
        "decimal" | "dec" => "numeric".to_string(),
        "character" if text.starts_with("character varying") => "varchar".to_string(),
        "character" | "char" => "bpchar".to_string(),
        _ => word,
    })
}

fn first_column(query: &Query) -> Option<String> {
    let mut body = query.body.as_ref();
    loop {
        match body {
            SetExpr::SetOperation { left, .. } => body = left,
            SetExpr::Query(query) => body = &query.body,
            SetExpr::Select(select) => {
                return match select.projection.first()? {
                    SelectItem::UnnamedExpr(expr) => Some(of(expr)),
                    SelectItem::ExprWithAlias { alias, .. } => Some(fold(alias)),
                    _ => None,
                };
            }
            _ => return None,
        }
    }
}

/// Gives the columns of a SELECT names, where the planner would make some that nobody can write, or the
/// same one twice.
pub fn columns(items: &mut [SelectItem], purpose: Use, level: &SelectLevel) {
    let names: Vec<Option<String>> = items
        .iter()
        .map(|item| match item {
            SelectItem::UnnamedExpr(expr) => Some(of(expr)),
            SelectItem::ExprWithAlias { alias, .. } => Some(fold(alias)),
            _ => None,
        })
        .collect();
    let plain = |item: &SelectItem| match item {
        SelectItem::UnnamedExpr(expr) => Some(expr.clone()),
        _ => None,
    };
    let exprs: Vec<Option<Expr>> = items.iter().map(plain).collect();
    let twice: Vec<bool> = exprs
        .iter()
        .map(|one| one.is_some() && exprs.iter().filter(|other| *other == one).count() > 1)
        .collect();
    let count = |name: &str| names.iter().flatten().filter(|n| *n == name).count();
    // A column beside an expression of the same name: the planner refuses the two.
    let named = |item: &SelectItem| match item {
        SelectItem::ExprWithAlias { alias, .. } => Some(fold(alias)),
        _ => None,
    };
    let aliases: Vec<String> = items.iter().filter_map(named).collect();
    for (at, item) in items.iter_mut().enumerate() {
        if let SelectItem::ExprWithAlias { alias, .. } = item {
            if purpose == Use::Within && count(&fold(alias)) > 1 {
                *alias = hidden(at);
            }
            continue;
        }
        let (SelectItem::UnnamedExpr(expr), Some(name)) = (&*item, &names[at]) else { continue };
        let is_column = matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_));
        let repeated = count(name) > 1;
        let alias = if is_column {
            // Columns of several relations may share a name; the planner knows them apart.
            if purpose == Use::View || !(twice[at] || aliases.contains(name)) {
                continue;
            }
            hidden(at)
        } else if purpose == Use::View {
            continue;
        } else if repeated {
            hidden(at)
        } else if level.visible.iter().any(|v| v.name == *name) {
            // The name would hide a column of the input.
            continue;
        } else {
            quoted(name)
        };
        *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
    }
}

fn hidden(at: usize) -> Ident {
    quoted(&format!("__column{at}"))
}
