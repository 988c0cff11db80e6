//! SQL types as ClickHouse spells them, and names and texts as it quotes them.

use crate::model::schema::{SqlField, SqlType};

/// The ClickHouse type of a column or struct member, or the SQL type that has none.
pub(super) fn clickhouse_type(field: &SqlField) -> Result<String, SqlType> {
    let plain = plain_type(&field.sql_type)?;
    // `Nullable(Array)` does not exist: an array that is NULL is stored as an empty one.
    let nullable = field.nullable && !matches!(field.sql_type, SqlType::Array(_));
    Ok(if nullable { format!("Nullable({plain})") } else { plain })
}

fn plain_type(sql_type: &SqlType) -> Result<String, SqlType> {
    Ok(match sql_type {
        SqlType::Boolean => "Bool".into(),
        SqlType::SmallInt => "Int16".into(),
        SqlType::Int => "Int32".into(),
        SqlType::BigInt => "Int64".into(),
        SqlType::SmallIntUnsigned => "UInt16".into(),
        SqlType::IntUnsigned => "UInt32".into(),
        SqlType::BigIntUnsigned => "UInt64".into(),
        SqlType::Real => "Float32".into(),
        SqlType::Double => "Float64".into(),
        SqlType::Decimal { precision, scale } if (0..=*precision as i8).contains(scale) => {
            format!("Decimal({precision}, {scale})")
        }
        SqlType::Text | SqlType::Bytea | SqlType::Json => "String".into(),
        SqlType::Date => "Date32".into(),
        SqlType::Timestamp { precision, .. } => format!("DateTime64({precision}, 'UTC')"),
        SqlType::Uuid => "UUID".into(),
        SqlType::Array(item) => format!("Array({})", clickhouse_type(item)?),
        SqlType::Struct(fields) if !fields.is_empty() => {
            let members = fields
                .iter()
                .map(|f| Ok(format!("{} {}", quote_name(&f.name), clickhouse_type(f)?)))
                .collect::<Result<Vec<_>, SqlType>>()?;
            format!("Tuple({})", members.join(", "))
        }
        SqlType::Decimal { .. } | SqlType::Struct(_) => return Err(sql_type.clone()),
    })
}

/// True when the type holds a STRUCT that may be NULL, at any depth.
pub(super) fn has_nullable_tuple(field: &SqlField) -> bool {
    match &field.sql_type {
        SqlType::Struct(fields) => field.nullable || fields.iter().any(has_nullable_tuple),
        SqlType::Array(item) => has_nullable_tuple(item),
        _ => false,
    }
}

/// A name between backticks.
pub(super) fn quote_name(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

/// A text between single quotes.
pub(super) fn quote_text(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}
