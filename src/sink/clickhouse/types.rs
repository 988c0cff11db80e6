//! SQL types as ClickHouse spells them, and names and texts as it quotes them.

use crate::model::schema::{SqlField, SqlType};

/// The ClickHouse type of a column or struct member, or the SQL type that has none.
///
/// `Nullable(Array)` does not exist: an array that is NULL is stored as an empty one. `Nullable(Tuple)`
/// is new, and clients lose their place in what they read of it: a STRUCT that is NULL is stored as one
/// whose members are all NULL.
pub(super) fn clickhouse_type(field: &SqlField) -> Result<String, SqlType> {
    type_of(&field.sql_type, field.nullable)
}

fn type_of(sql_type: &SqlType, nullable: bool) -> Result<String, SqlType> {
    let plain = plain_type(sql_type, nullable)?;
    let takes_null = !matches!(sql_type, SqlType::Array(_) | SqlType::Struct(_));
    Ok(if nullable && takes_null { format!("Nullable({plain})") } else { plain })
}

fn plain_type(sql_type: &SqlType, nullable: bool) -> Result<String, SqlType> {
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
        SqlType::Text
        | SqlType::Varchar(_)
        | SqlType::Bytea
        | SqlType::Json
        | SqlType::Interval
        | SqlType::Time => "String".into(),
        SqlType::Date => "Date32".into(),
        SqlType::Timestamp { precision, .. } => format!("DateTime64({precision}, 'UTC')"),
        SqlType::Uuid => "UUID".into(),
        SqlType::Array(item) => format!("Array({})", clickhouse_type(item)?),
        SqlType::Struct(fields) if !fields.is_empty() => {
            let members = fields
                .iter()
                .map(|member| {
                    let nullable = nullable || member.nullable;
                    let of = type_of(&member.sql_type, nullable)?;
                    Ok(format!("{} {of}", quote_name(&member.name)))
                })
                .collect::<Result<Vec<_>, SqlType>>()?;
            format!("Tuple({})", members.join(", "))
        }
        SqlType::Decimal { .. } | SqlType::Struct(_) => return Err(sql_type.clone()),
    })
}

/// A name between backticks.
pub(super) fn quote_name(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

/// A text between single quotes.
pub(super) fn quote_text(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str, sql_type: SqlType, nullable: bool) -> SqlField {
        SqlField { name: name.to_string(), sql_type, nullable }
    }

    #[test]
    fn struct_that_may_be_null_has_members_that_may_be() {
        let inner = SqlType::Struct(vec![field("n", SqlType::Int, false)]);
        let list = SqlType::Array(Box::new(field("item", SqlType::Text, false)));
        let outer = |nullable| {
            let members = vec![
                field("s", SqlType::Text, false),
                field("inner", inner.clone(), false),
                field("list", list.clone(), false),
            ];
            clickhouse_type(&field("c", SqlType::Struct(members), nullable)).unwrap()
        };
        let expected = "Tuple(`s` String, `inner` Tuple(`n` Int32), `list` Array(String))";
        assert_eq!(outer(false), expected);
        let expected = "Tuple(`s` Nullable(String), `inner` Tuple(`n` Nullable(Int32)), \
                        `list` Array(String))";
        assert_eq!(outer(true), expected);
    }
}
