//! Values that ClickHouse cannot hold: dates and instants beyond its ranges, and texts that are no UUID.
//! Such a row would fail its whole insert, so it is found before.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};

use crate::model::schema::{SqlField, SqlType};

/// 1900-01-01 in days since 1970-01-01: the first day of Date32.
const DAY_MIN: i32 = -25_567;
/// 2299-12-31: its last day.
const DAY_MAX: i32 = 120_529;
/// 1900-01-01T00:00:00Z in seconds since 1970: the first second of DateTime64.
const SECOND_MIN: i64 = DAY_MIN as i64 * 86_400;
/// 2299-12-31T23:59:59Z: its last second.
const SECOND_MAX: i64 = (DAY_MAX as i64 + 1) * 86_400 - 1;

/// True when values of this column may be ones that ClickHouse cannot hold.
pub(super) fn is_limited(sql_type: &SqlType) -> bool {
    match sql_type {
        SqlType::Date | SqlType::Timestamp { .. } | SqlType::Uuid => true,
        SqlType::Array(item) => is_limited(&item.sql_type),
        SqlType::Struct(fields) => fields.iter().any(|f| is_limited(&f.sql_type)),
        _ => false,
    }
}

/// Reports every row of the column with a value that ClickHouse cannot hold, with the reason. A
/// row may be reported more than once.
pub(super) fn find_unholdable(
    field: &SqlField,
    column: &ArrayRef,
    report: &mut dyn FnMut(usize, String),
) {
    if !is_limited(&field.sql_type) {
        return;
    }
    match &field.sql_type {
        SqlType::Uuid => find_no_uuids(field, column, report),
        SqlType::Array(item) => find_in_lists(item, column, report),
        SqlType::Struct(fields) => {
            let members = column.as_struct();
            for (member, values) in fields.iter().zip(members.columns()) {
                find_unholdable(member, values, &mut |row, reason| {
                    // The members of a NULL struct are not sent.
                    if members.is_valid(row) {
                        report(row, reason);
                    }
                });
            }
        }
        _ => find_beyond_range(field, column, report),
    }
}

fn find_no_uuids(field: &SqlField, column: &ArrayRef, report: &mut dyn FnMut(usize, String)) {
    for (row, text) in column.as_string::<i32>().iter().enumerate() {
        if let Some(text) = text
            && uuid::Uuid::try_parse(text).is_err()
        {
            report(row, format!("`{}`: '{text}' is not a UUID", field.name));
        }
    }
}

fn find_in_lists(item: &SqlField, column: &ArrayRef, report: &mut dyn FnMut(usize, String)) {
    let lists = column.as_list::<i32>();
    let mut bad = Vec::new();
    find_unholdable(item, lists.values(), &mut |index, reason| bad.push((index, reason)));
    let ends = lists.offsets();
    for (index, reason) in bad {
        // The row is the one whose range of items holds the index.
        let row = ends.partition_point(|end| *end as usize <= index);
        if row > 0 && row <= lists.len() && lists.is_valid(row - 1) {
            report(row - 1, reason);
        }
    }
}

fn find_beyond_range(field: &SqlField, column: &ArrayRef, report: &mut dyn FnMut(usize, String)) {
    let seconds: Box<dyn Fn(usize) -> i64> = match column.data_type() {
        DataType::Date32 => {
            let days = column.as_primitive::<Date32Type>();
            Box::new(move |row| i64::from(days.value(row)) * 86_400)
        }
        DataType::Timestamp(TimeUnit::Second, _) => {
            let values = column.as_primitive::<TimestampSecondType>();
            Box::new(move |row| values.value(row))
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            let values = column.as_primitive::<TimestampMillisecondType>();
            Box::new(move |row| values.value(row).div_euclid(1_000))
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            let values = column.as_primitive::<TimestampMicrosecondType>();
            Box::new(move |row| values.value(row).div_euclid(1_000_000))
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            let values = column.as_primitive::<TimestampNanosecondType>();
            Box::new(move |row| values.value(row).div_euclid(1_000_000_000))
        }
        _ => return,
    };
    for row in 0..column.len() {
        if column.is_valid(row) && !(SECOND_MIN..=SECOND_MAX).contains(&seconds(row)) {
            let range = "1900-01-01 to 2299-12-31, which is what ClickHouse holds";
            report(row, format!("`{}` is outside {range}", field.name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::NaiveDate;

    #[test]
    fn limits_of_days_are_those_of_1900_and_2299() {
        let epoch = NaiveDate::from_ymd_opt(1970, 1, 1).unwrap();
        let day = |y, m, d| (NaiveDate::from_ymd_opt(y, m, d).unwrap() - epoch).num_days();
        assert_eq!(day(1900, 1, 1), i64::from(DAY_MIN));
        assert_eq!(day(2299, 12, 31), i64::from(DAY_MAX));
    }
}
