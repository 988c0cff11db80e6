//! Types as written in SQL → [`SqlType`], for columns of tables and for casts alike.

use arrow::datatypes::FieldRef;
use datafusion_common::{DataFusionError, Result as DataFusionResult};
use datafusion_expr::planner::TypePlanner;
use datafusion_sql::sqlparser::ast::{
    ArrayElemTypeDef, CharacterLength, DataType, ExactNumberInfo, StructField, TimezoneInfo,
};
use std::collections::HashMap;
use std::sync::Arc;

use crate::model::schema::{SQL_TYPE_KEY, SqlField, SqlType};

/// The precision of DECIMAL when none is written, as DataFusion has it.
const DECIMAL_DEFAULT: (u8, i8) = (38, 10);
/// The longest text that VARCHAR can be declared for, as in PostgreSQL.
const VARCHAR_LENGTH_MAX: u64 = 10_485_760;
/// The digits of a second that TIMESTAMP keeps when none are written.
const TIMESTAMP_PRECISION_DEFAULT: u8 = 6;

/// An error in a type as it is written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TypeError {
    #[error("type {0} is not supported")]
    NotSupported(String),
    #[error("type {0} is not supported: INTERVAL is, of any units")]
    Interval(String),
    #[error("type {0} is not supported: TIME is, which has no zone and six digits of a second")]
    Time(String),
    #[error(
        "DECIMAL({precision},{scale}) is out of range: precision 1 to 76, scale 0 to precision"
    )]
    Decimal { precision: u64, scale: i64 },
    #[error("TIMESTAMP({precision}) is out of range: 0 to 9 digits")]
    Timestamp { precision: u64 },
    #[error("VARCHAR({0}) is out of range: 1 to {max} characters", max = VARCHAR_LENGTH_MAX)]
    Varchar(u64),
    #[error("CHAR(n), which ignores spaces at the end, is not supported: VARCHAR(n) or TEXT is")]
    Char,
    #[error("a STRUCT member needs a name")]
    NamelessMember,
}

/// The SQL type that a parsed type names, or what is wrong with it.
pub fn sql_type(data_type: &DataType) -> Result<SqlType, TypeError> {
    Ok(match data_type {
        DataType::Boolean | DataType::Bool => SqlType::Boolean,
        DataType::SmallInt(_) | DataType::Int2(_) => SqlType::SmallInt,
        DataType::Int(_) | DataType::Integer(_) | DataType::Int4(_) => SqlType::Int,
        DataType::BigInt(_) | DataType::Int8(_) | DataType::Int64 => SqlType::BigInt,
        DataType::SmallIntUnsigned(_) | DataType::Int2Unsigned(_) => SqlType::SmallIntUnsigned,
        DataType::IntUnsigned(_) | DataType::IntegerUnsigned(_) | DataType::Int4Unsigned(_) => {
            SqlType::IntUnsigned
        }
        DataType::BigIntUnsigned(_) | DataType::Int8Unsigned(_) => SqlType::BigIntUnsigned,
        DataType::Real | DataType::Float4 => SqlType::Real,
        DataType::Double(_)
        | DataType::DoublePrecision
        | DataType::Float8
        | DataType::Float(_)
        | DataType::Float64 => SqlType::Double,
        DataType::Decimal(info) | DataType::Numeric(info) | DataType::Dec(info) => decimal(*info)?,
        DataType::Varchar(_) | DataType::CharacterVarying(_) => match length(data_type) {
            None => SqlType::Text,
            Some(length @ 1..=VARCHAR_LENGTH_MAX) => SqlType::Varchar(length as u32),
            Some(length) => return Err(TypeError::Varchar(length)),
        },
        DataType::Char(_) | DataType::Character(_) => return Err(TypeError::Char),
        DataType::Text | DataType::String(_) => SqlType::Text,
        DataType::Bytea | DataType::Blob(_) | DataType::Varbinary(_) => SqlType::Bytea,
        DataType::Date => SqlType::Date,
        DataType::Timestamp(precision, zone) => timestamp(*precision, zone)?,
        DataType::Uuid => SqlType::Uuid,
        DataType::JSON | DataType::JSONB => SqlType::Json,
        DataType::Array(
            ArrayElemTypeDef::AngleBracket(item)
            | ArrayElemTypeDef::SquareBracket(item, _)
            | ArrayElemTypeDef::Parenthesis(item),
        ) => SqlType::Array(Box::new(SqlField::new("item", sql_type(item)?, true))),
        DataType::Struct(fields, _) => {
            SqlType::Struct(fields.iter().map(struct_field).collect::<Result<_, _>>()?)
        }
        DataType::Interval { fields: None, precision: None } => SqlType::Interval,
        DataType::Interval { .. } => return Err(TypeError::Interval(data_type.to_string())),
        DataType::Time(None | Some(6), TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => {
            SqlType::Time
        }
        DataType::Time(..) => return Err(TypeError::Time(data_type.to_string())),
        other => return Err(TypeError::NotSupported(other.to_string())),
    })
}

fn decimal(info: ExactNumberInfo) -> Result<SqlType, TypeError> {
    let (precision, scale) = match info {
        ExactNumberInfo::None => return Ok(decimal_of(DECIMAL_DEFAULT)),
        ExactNumberInfo::Precision(precision) => (precision, 0),
        ExactNumberInfo::PrecisionAndScale(precision, scale) => (precision, scale),
    };
    if !(1..=76).contains(&precision) || scale < 0 || scale as u64 > precision {
        return Err(TypeError::Decimal { precision, scale });
    }
    Ok(decimal_of((precision as u8, scale as i8)))
}

fn decimal_of((precision, scale): (u8, i8)) -> SqlType {
    SqlType::Decimal { precision, scale }
}

fn timestamp(precision: Option<u64>, zone: &TimezoneInfo) -> Result<SqlType, TypeError> {
    let precision = precision.unwrap_or(u64::from(TIMESTAMP_PRECISION_DEFAULT));
    if precision > 9 {
        return Err(TypeError::Timestamp { precision });
    }
    let with_time_zone = matches!(zone, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz);
    Ok(SqlType::Timestamp { precision: precision as u8, with_time_zone })
}

fn struct_field(field: &StructField) -> Result<SqlField, TypeError> {
    match &field.field_name {
        Some(name) => {
            let name = super::names::fold(name);
            Ok(SqlField::new(name, sql_type(&field.field_type)?, true))
        }
        None => Err(TypeError::NamelessMember),
    }
}

/// Number of characters that VARCHAR keeps.
fn length(written: &DataType) -> Option<u64> {
    match written {
        DataType::Varchar(Some(CharacterLength::IntegerLength { length, .. }))
        | DataType::CharacterVarying(Some(CharacterLength::IntegerLength { length, .. })) => {
            Some(*length)
        }
        _ => None,
    }
}

/// Gives casts the same types as columns (DataFusion's own drop the zone of `TIMESTAMP(3) WITH
/// TIME ZONE`).
#[derive(Debug)]
pub struct CastTypes;

impl TypePlanner for CastTypes {
    fn plan_type_field(&self, written: &DataType) -> DataFusionResult<Option<FieldRef>> {
        // Intervals with units or digits are DataFusion's.
        if matches!(written, DataType::Interval { .. }) {
            return Ok(None);
        }
        match sql_type(written) {
            Ok(nested @ (SqlType::Array(_) | SqlType::Struct(_))) if nested.mentions_length() => {
                let message =
                    "a cast to an ARRAY or STRUCT with VARCHAR(n) is not supported: TEXT is";
                Err(DataFusionError::Plan(message.to_string()))
            }
            Ok(sql_type) => {
                // A field without a name is taken for a bare Arrow type, beside which the value keeps its note.
                let field = SqlField::new("cast", sql_type, true).to_arrow();
                let note = match written {
                    DataType::JSONB => Some("jsonb".to_string()),
                    written => length(written).map(|n| format!("varchar({n})")),
                };
                let note = note.map(|note| (SQL_TYPE_KEY.to_string(), note));
                Ok(Some(Arc::new(match note {
                    Some(note) => field.with_metadata(HashMap::from([note])),
                    None => field,
                })))
            }
            Err(error) => Err(DataFusionError::Plan(error.to_string())),
        }
    }
}
