//! JSON values → columns, driven by the columns' types.
//!
//! A value of the wrong type is noted and read past, so that one pass finds everything that is wrong
//! with an event.

use std::fmt;

use arrow::array::ArrayRef;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::Violation;
use super::builder::ColumnBuilder;
use super::plain::{PlainCursor, PlainKind, PlainValue};
use super::text;
use crate::model::schema::{FieldNaming, SqlField, within_length};
use crate::model::{interval, json};

/// After an object that was not plain so many rows are not tried as plain ones: mostly those of a table
/// are alike.
const PLAIN_PAUSE_ROWS: u32 = 15;
/// The most violations that are told of one event.
const VIOLATIONS_MAX: usize = 16;

/// A member of a JSON object that is read into a column.
#[derive(Debug)]
struct ObjectMember {
    json_name: String,
    sql_name: String,
    required: bool,
    builder: ColumnBuilder,
    type_name: String,
}

impl ObjectMember {
    /// Lets `read` read a value of the row behind so many.
    #[inline]
    fn read<T>(
        &mut self,
        index: usize,
        rows: usize,
        top: bool,
        notes: &mut Notes,
        read: impl FnOnce(ValueSeed<'_>) -> T,
    ) -> T {
        if self.builder.len() > rows {
            // A repeated member: its last value counts.
            self.builder.truncate(rows);
        }
        if top {
            notes.member = Some(index);
        }
        notes.path.push(PointerStep::Name(String::new()));
        let done = read(ValueSeed {
            builder: &mut self.builder,
            notes,
            type_name: &self.type_name,
            name: Some(&self.json_name),
            required: self.required,
        });
        notes.path.pop();
        done
    }
}

/// The index of the member of this name. Members mostly come in the order of the last event: the next
/// one is looked at first.
#[inline]
fn member_named(members: &[ObjectMember], next: usize, key: &str) -> Option<usize> {
    match members.get(next) {
        Some(member) if member.json_name == key => Some(next),
        _ => members.iter().position(|member| member.json_name == key),
    }
}

/// The members of a JSON object, each a column.
#[derive(Debug, Default)]
pub struct ObjectMembers {
    members: Vec<ObjectMember>,
    rows: usize,
    /// Dates and instants may be numbers, as Debezium writes them.
    epochs: bool,
    /// So many rows more are not tried as objects of plain values.
    plain_pause: u32,
}

impl ObjectMembers {
    /// No columns yet, to be read from payloads of this format.
    pub fn new(epochs: bool) -> Self {
        ObjectMembers { epochs, ..ObjectMembers::default() }
    }

    /// Adds a column that reads the member of the field's name.
    pub fn push(&mut self, field: &SqlField, naming: FieldNaming, required: bool) {
        self.members.push(ObjectMember {
            json_name: naming.json_name(&field.name),
            sql_name: field.name.clone(),
            required,
            builder: ColumnBuilder::new(&field.sql_type, naming),
            type_name: field.sql_type.to_string(),
        });
    }

    /// Reads a JSON object as one more row, with NULL where something does not fit.
    pub fn push_row(&mut self, data: &[u8]) -> Misfits {
        let mut notes = Notes { epochs: self.epochs, ..Notes::default() };
        if !self.members.is_empty() {
            let read = match std::str::from_utf8(data) {
                Ok(text) if self.push_plain(text, &mut notes).is_some() => Ok(()),
                Ok(text) => {
                    self.truncate(self.rows);
                    notes = Notes { epochs: self.epochs, ..Notes::default() };
                    let object = ObjectSeed { members: self, notes: &mut notes, top: true };
                    object.deserialize(&mut serde_json::Deserializer::from_str(text))
                }
                // Members that are not read may be anything.
                Err(_) => {
                    let object = ObjectSeed { members: self, notes: &mut notes, top: true };
                    object.deserialize(&mut serde_json::Deserializer::from_slice(data))
                }
            };
            if let Err(error) = read {
                notes.member = None;
                notes.path.clear();
                notes.add(format!("not a JSON object: {error}"));
                notes.misfits.columns = (0..self.members.len()).collect();
                self.truncate(self.rows);
                self.push_nulls();
                return notes.misfits;
            }
        }
        self.rows += 1;
        notes.misfits
    }

    /// Reads an object of plain values as one more row. `None` where it is none, or not yet over: then
    /// some columns may have been read.
    fn push_plain(&mut self, text: &str, notes: &mut Notes) -> Option<()> {
        if self.plain_pause > 0 {
            self.plain_pause -= 1;
            return None;
        }
        self.plain_pause = PLAIN_PAUSE_ROWS;
        let mut cursor = PlainCursor::new(text);
        if cursor.token()? != b'{' {
            return None;
        }
        let rows = self.rows;
        let mut next = 0;
        let mut token = cursor.token()?;
        while token != b'}' {
            if token != b'"' {
                return None;
            }
            let key = cursor.text()?;
            if cursor.token()? != b':' {
                return None;
            }
            let value = cursor.value()?;
            let found = member_named(&self.members, next, key);
            if let Some(index) = found {
                next = index + 1;
                let seed = |seed: ValueSeed<'_>| seed.plain(value);
                self.members[index].read(index, rows, true, notes, seed);
            }
            token = match cursor.token()? {
                b',' => Some(cursor.token()?).filter(|token| *token == b'"')?,
                b'}' => b'}',
                _ => return None,
            };
        }
        self.close_row(notes, true);
        self.plain_pause = 0;
        Some(())
    }

    /// Ends a row: columns that the object did not have become NULL.
    fn close_row(&mut self, notes: &mut Notes, top: bool) {
        let rows = self.rows;
        for (index, member) in self.members.iter_mut().enumerate() {
            if top {
                notes.member = Some(index);
            }
            if member.builder.len() == rows {
                member.builder.push_null();
                if member.required {
                    notes.path.push(PointerStep::Name(member.json_name.clone()));
                    notes.add(format!(
                        "{} is missing (column {})",
                        member.type_name, member.sql_name
                    ));
                    notes.path.pop();
                }
            }
        }
    }

    /// Adds a row of NULLs.
    pub fn push_nulls(&mut self) {
        for member in &mut self.members {
            member.builder.push_null();
        }
        self.rows += 1;
    }

    /// Cuts back to `len` rows.
    pub fn truncate(&mut self, len: usize) {
        for member in &mut self.members {
            member.builder.truncate(len);
        }
        self.rows = len;
    }

    /// Forgets all rows.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// The columns; there are no rows afterwards.
    pub fn finish(&mut self) -> Vec<ArrayRef> {
        self.rows = 0;
        self.members.iter_mut().map(|m| m.builder.finish()).collect()
    }
}

/// A step of a JSON pointer.
enum PointerStep {
    Name(String),
    Index(usize),
}

/// Where we are in the event and what was wrong so far.
#[derive(Default)]
struct Notes {
    path: Vec<PointerStep>,
    /// Index of the row's column that is being read.
    member: Option<usize>,
    /// See [`ObjectMembers::of`].
    epochs: bool,
    misfits: Misfits,
}

/// The violations of one event.
#[derive(Debug, Default)]
pub struct Misfits {
    /// The columns that something is wrong with, in the order of the members.
    pub columns: Vec<usize>,
    /// A violation: of one column, or of the whole event.
    pub violations: Vec<(Option<usize>, Violation)>,
}

impl Notes {
    fn add(&mut self, message: String) {
        let Misfits { columns, violations } = &mut self.misfits;
        if let Some(member) = self.member
            && !columns.contains(&member)
        {
            columns.push(member);
        }
        if violations.len() >= VIOLATIONS_MAX {
            return;
        }
        let mut pointer = String::new();
        for step in &self.path {
            match step {
                PointerStep::Name(name) => {
                    pointer.push('/');
                    pointer.push_str(&json::pointer_token(name));
                }
                PointerStep::Index(index) => pointer.push_str(&format!("/{index}")),
            }
        }
        violations.push((self.member, Violation { pointer, message }));
    }
}

/// Reads an object's members into their columns.
struct ObjectSeed<'a> {
    members: &'a mut ObjectMembers,
    notes: &'a mut Notes,
    /// The members are the columns of the row.
    top: bool,
}

impl<'de> DeserializeSeed<'de> for ObjectSeed<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ObjectSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let ObjectSeed { members, notes, top } = self;
        let rows = members.rows;
        let mut next = 0;
        while let Some(found) = map.next_key_seed(KeySeed { members: &members.members, next })? {
            let Some(index) = found else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            next = index + 1;
            let seed = |seed: ValueSeed<'_>| map.next_value_seed(seed);
            members.members[index].read(index, rows, top, notes, seed)?;
        }
        members.close_row(notes, top);
        Ok(())
    }
}

/// Finds the member that a key names without copying the key.
struct KeySeed<'a> {
    members: &'a [ObjectMember],
    next: usize,
}

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = Option<usize>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    #[inline]
    fn visit_str<E>(self, key: &str) -> Result<Option<usize>, E> {
        Ok(member_named(self.members, self.next, key))
    }
}

/// Reads one value into a column; a value that does not fit is noted, and NULL takes its place.
struct ValueSeed<'a> {
    builder: &'a mut ColumnBuilder,
    notes: &'a mut Notes,
    type_name: &'a str,
    /// The member's name, put into the path only when something is wrong.
    name: Option<&'a str>,
    required: bool,
}

impl ValueSeed<'_> {
    fn refuse(mut self, found: impl fmt::Display) {
        let message = format!("expected {}, found {found}", self.type_name);
        self.name_path();
        self.notes.add(message);
        self.builder.push_null();
    }

    fn name_path(&mut self) {
        if let (Some(name), Some(PointerStep::Name(step))) = (self.name, self.notes.path.last_mut())
            && step.is_empty()
        {
            step.push_str(name);
        }
    }

    fn integer(self, value: i128) {
        macro_rules! fit {
            ($values:expr, $type:ty) => {
                match <$type>::try_from(value) {
                    Ok(value) => $values.push(Some(value)),
                    Err(_) => self.refuse(format_args!("{value}, which is out of range")),
                }
            };
        }
        match self.builder {
            ColumnBuilder::SmallInt(v) => fit!(v, i16),
            ColumnBuilder::Int(v) => fit!(v, i32),
            ColumnBuilder::BigInt(v) => fit!(v, i64),
            ColumnBuilder::SmallIntUnsigned(v) => fit!(v, u16),
            ColumnBuilder::IntUnsigned(v) => fit!(v, u32),
            ColumnBuilder::BigIntUnsigned(v) => fit!(v, u64),
            ColumnBuilder::Real(v) => v.push(Some(value as f32)),
            ColumnBuilder::Double(v) => v.push(Some(value as f64)),
            ColumnBuilder::Date(v) if self.notes.epochs => fit!(v, i32),
            ColumnBuilder::Timestamp { precision, unit, values, .. } if self.notes.epochs => {
                match text::epoch(value, *precision, *unit) {
                    Some(instant) => values.push(Some(instant)),
                    None => self.refuse(format_args!("{value}, which is out of range")),
                }
            }
            _ => self.refuse(format_args!("the number {value}")),
        }
    }

    fn text(self, value: &str) {
        match self.builder {
            ColumnBuilder::Text(v) => v.push(Some(value.as_bytes())),
            ColumnBuilder::Varchar { length, values } => match within_length(value, *length) {
                Ok(value) => values.push(Some(value.as_bytes())),
                Err(found) => self.refuse(format_args!("a text of {found} characters")),
            },
            ColumnBuilder::Bytea(v) => match STANDARD.decode(value) {
                Ok(bytes) => v.push(Some(&bytes)),
                Err(_) => self.refuse("text that is not base64"),
            },
            ColumnBuilder::Uuid(v) => match uuid::Uuid::parse_str(value) {
                Ok(uuid) => v.push(Some(uuid.to_string().as_bytes())),
                Err(_) => self.refuse(format_args!("{value:?}")),
            },
            ColumnBuilder::Date(v) => match text::date(value) {
                Some(days) => v.push(Some(days)),
                None => self.refuse(format_args!("{value:?}: a date is written 2026-11-23")),
            },
            ColumnBuilder::Time(v) => match interval::clock(value) {
                Some(time) => v.push(Some(time)),
                None => self.refuse(format_args!("{value:?}: a time is written 10:30:00.5")),
            },
            ColumnBuilder::Interval(v) => match interval::read(value) {
                Some(interval) => v.push(Some(interval)),
                None => self.refuse(format_args!("{value:?}: an interval is written P1DT2H30M")),
            },
            ColumnBuilder::Timestamp { precision, unit, values, .. } => {
                match text::timestamp(value, *precision, *unit) {
                    Some(instant) => values.push(Some(instant)),
                    None => self.refuse(format_args!(
                        "{value:?}: an instant is written 2026-11-23T10:00:00.123Z"
                    )),
                }
            }
            ColumnBuilder::Real(v) => match float_text(value) {
                Some(number) => v.push(Some(number as f32)),
                None => self.refuse(format_args!("{value:?}")),
            },
            ColumnBuilder::Double(v) => match float_text(value) {
                Some(number) => v.push(Some(number)),
                None => self.refuse(format_args!("{value:?}")),
            },
            ColumnBuilder::SmallInt(_)
            | ColumnBuilder::Int(_)
            | ColumnBuilder::BigInt(_)
            | ColumnBuilder::SmallIntUnsigned(_)
            | ColumnBuilder::IntUnsigned(_)
            | ColumnBuilder::BigIntUnsigned(_) => match value.parse::<i128>() {
                Ok(number) => self.integer(number),
                Err(_) => self.refuse(format_args!("{value:?}")),
            },
            _ => self.refuse(format_args!("the text {value:?}")),
        }
    }

    /// Decimals and JSON are read from their very text.
    fn raw(mut self, raw: &str) {
        if raw == "null" {
            return self.null();
        }
        match self.builder {
            ColumnBuilder::Json(v) => v.push(Some(raw.as_bytes())),
            ColumnBuilder::Decimal { precision, scale, values } => {
                match text::decimal(unquoted(raw), *precision, *scale).and_then(|v| v.to_i128()) {
                    Some(value) => values.push(Some(value)),
                    None => self.refuse(raw),
                }
            }
            ColumnBuilder::DecimalWide { precision, scale, values } => {
                match text::decimal(unquoted(raw), *precision, *scale) {
                    Some(value) => values.push(Some(value)),
                    None => self.refuse(raw),
                }
            }
            _ => {
                self.name_path();
                unreachable!("only decimals and JSON are read from their text")
            }
        }
    }

    fn plain(self, value: PlainValue<'_>) {
        match self.builder {
            ColumnBuilder::Decimal { .. }
            | ColumnBuilder::DecimalWide { .. }
            | ColumnBuilder::Json(_) => self.raw(value.raw),
            _ => match value.kind {
                PlainKind::Text(text) => self.text(text),
                PlainKind::Integer(number) => self.integer(number.into()),
                PlainKind::Float(number) => self.float(number),
                PlainKind::Boolean(value) => self.boolean(value),
                PlainKind::Null => self.null(),
            },
        }
    }

    fn boolean(self, value: bool) {
        match self.builder {
            ColumnBuilder::Boolean(v) => v.push(Some(value)),
            _ => self.refuse(value),
        }
    }

    fn float(self, value: f64) {
        match self.builder {
            ColumnBuilder::Real(v) => v.push(Some(value as f32)),
            ColumnBuilder::Double(v) => v.push(Some(value)),
            _ => self.refuse(format_args!("the number {value}")),
        }
    }

    fn null(mut self) {
        if self.required {
            self.name_path();
            self.notes.add(format!("expected {}, found null", self.type_name));
        }
        self.builder.push_null();
    }
}

/// The text in a JSON string without escapes; other values as they are.
fn unquoted(raw: &str) -> &str {
    raw.strip_prefix('"').and_then(|r| r.strip_suffix('"')).unwrap_or(raw)
}

fn float_text(value: &str) -> Option<f64> {
    match value {
        "NaN" => Some(f64::NAN),
        "Infinity" | "+Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => value.parse::<f64>().ok().filter(|v| v.is_finite()),
    }
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.builder {
            ColumnBuilder::Decimal { .. }
            | ColumnBuilder::DecimalWide { .. }
            | ColumnBuilder::Json(_) => {
                let raw = <&RawValue as serde::Deserialize>::deserialize(deserializer)?;
                self.raw(raw.get());
                Ok(())
            }
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.type_name)
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.null();
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.boolean(value);
        Ok(())
    }

    #[inline]
    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.integer(value.into());
        Ok(())
    }

    #[inline]
    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.integer(value.into());
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.float(value);
        Ok(())
    }

    #[inline]
    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.text(value);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        self.name_path();
        let ColumnBuilder::Array(lists) = self.builder else {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            self.refuse("an array");
            return Ok(());
        };
        let item_type = self.type_name.strip_prefix("ARRAY<").unwrap_or(self.type_name);
        let item_type = item_type.strip_suffix('>').unwrap_or(item_type);
        let mut index = 0;
        loop {
            self.notes.path.push(PointerStep::Index(index));
            let seed = ValueSeed {
                builder: &mut lists.items,
                notes: self.notes,
                type_name: item_type,
                name: None,
                required: false,
            };
            let more = seq.next_element_seed(seed)?;
            self.notes.path.pop();
            if more.is_none() {
                break;
            }
            index += 1;
        }
        lists.close(true);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        self.name_path();
        let ColumnBuilder::Struct(structs) = self.builder else {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            self.refuse("an object");
            return Ok(());
        };
        ObjectSeed { members: &mut structs.members, notes: self.notes, top: false }
            .visit_map(map)?;
        structs.members.rows += 1;
        structs.close(true);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::schema::SqlType;

    fn members() -> ObjectMembers {
        let price = SqlType::Decimal { precision: 12, scale: 2 };
        let item = SqlType::Struct(vec![
            SqlField::new("product_id", SqlType::Text, true),
            SqlField::new("price", price, true),
        ]);
        let mut members = ObjectMembers::default();
        let items = SqlType::Array(Box::new(SqlField::new("item", item, true)));
        members.push(&SqlField::new("order_id", SqlType::Int, false), FieldNaming::CamelCase, true);
        members.push(&SqlField::new("items", items, true), FieldNaming::CamelCase, false);
        members
    }

    fn pointers(misfits: &Misfits) -> Vec<&str> {
        misfits.violations.iter().map(|(_, v)| v.pointer.as_str()).collect()
    }

    #[test]
    fn one_pass_finds_every_violation_and_the_columns_that_have_them() {
        let mut members = members();
        let good = br#"{"orderId": 1, "items": [{"productId": "p", "price": "1.5"}]}"#;
        assert!(members.push_row(good).violations.is_empty());
        let found = members.push_row(
            br#"{"items": [{"price": 1}, {"price": true, "productId": 7}, 3], "orderId": 2}"#,
        );
        assert_eq!(pointers(&found), ["/items/1/price", "/items/1/productId", "/items/2"]);
        assert_eq!(found.columns, [1]);
        let missing = members.push_row(br#"{"items": null}"#);
        assert_eq!((pointers(&missing), &missing.columns), (vec!["/orderId"], &vec![0]));
        let broken = members.push_row(b"[1]");
        assert!(broken.violations[0].1.message.contains("not a JSON object"));
        assert_eq!(broken.columns, [0, 1]);
        // Every event is a row, so that the columns that do fit can be read.
        let columns = members.finish();
        assert!(columns.iter().all(|c| c.len() == 4), "{columns:?}");
        assert_eq!(columns[0].null_count(), 2);
    }

    #[test]
    fn plain_objects_are_read_as_all_others() {
        let types = [
            SqlType::BigInt,
            SqlType::SmallInt,
            SqlType::Double,
            SqlType::Boolean,
            SqlType::Text,
            SqlType::Timestamp { precision: 3, with_time_zone: false },
            SqlType::Decimal { precision: 12, scale: 2 },
            SqlType::Json,
        ];
        let members = |plain_pause| {
            let mut members = ObjectMembers { plain_pause, ..ObjectMembers::default() };
            for (index, sql_type) in types.iter().enumerate() {
                let field = SqlField::new(format!("c{index}"), sql_type.clone(), true);
                members.push(&field, FieldNaming::Same, index == 0);
            }
            members
        };
        let values = [
            "0",
            "-7",
            "70000",
            "1.25",
            "-0.0",
            "1e2",
            "true",
            "false",
            "null",
            r#""""#,
            r#""x""#,
            r#""12.5""#,
            r#""2026-11-29T10:00:00.123Z""#,
            r#""\n""#,
            "[1]",
            r#"{"a": 1}"#,
            "99999999999999999999",
            "1e999",
            "01",
            "nul",
            "\"\u{1}\"",
        ];
        let mut objects: Vec<String> = [
            "{}",
            " { } ",
            "{",
            "}",
            "",
            "[]",
            "{\"c0\"}",
            "{\"c0\":1,}",
            "{,}",
            "{\"c0\" 1}",
            "{\"c0\":1 \"c1\":2}",
            "{\"c0\":1}{",
            "{\"c0\": 1, \"c0\": \"2\", \"c0\": 3}",
            "{ \"c4\" : \"é\" ,\n\"c0\":\t1\r}",
            "{\"c\\u0030\": 1}",
            "{\"c1\":2,\"c0\":1,\"more\":1.5}",
        ]
        .map(String::from)
        .into();
        for value in values {
            objects.extend((0..types.len()).map(|c| format!("{{\"c0\":5,\"c{c}\":{value}}}")));
            objects.push(format!("{{\"unread\":{value},\"c0\":1}}"));
        }
        let (mut one, mut other) = (members(0), members(u32::MAX));
        for object in &objects {
            one.plain_pause = 0;
            let (one, other) = (one.push_row(object.as_bytes()), other.push_row(object.as_bytes()));
            assert_eq!(one.columns, other.columns, "{object}");
            assert_eq!(one.violations, other.violations, "{object}");
        }
        assert_eq!(one.finish(), other.finish());
    }
}
