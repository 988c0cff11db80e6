//! Functions and operators of jsonb that look into values or change them.

use std::sync::Arc;

use datafusion_common::{Result, exec_err};
use datafusion_expr::{Expr, ScalarUDF};
use datafusion_sql::sqlparser::ast::BinaryOperator;
use serde_json::value::RawValue;

use super::jsonb_tree::{Change, Tree, put};
use super::row::{CallRow, Overload, Type, Value, function, function_of_nulls, overload};

use Type::{BigInt, Boolean, Json, Text, Texts};

const CONTAINS: &[Overload] = &[overload(&[Json, Json], Boolean, |row| {
    Ok(Value::Boolean(tree(row, 0)?.contains(&tree(row, 1)?)))
})];
const LESS: &[Overload] = &[overload(&[Json, Json], Boolean, |row| {
    Ok(Value::Boolean(tree(row, 0)?.compare(&tree(row, 1)?).is_lt()))
})];
const LESS_OR_EQUAL: &[Overload] = &[overload(&[Json, Json], Boolean, |row| {
    Ok(Value::Boolean(tree(row, 0)?.compare(&tree(row, 1)?).is_le()))
})];
const HAS: &[Overload] =
    &[overload(&[Json, Text], Boolean, |row| Ok(Value::Boolean(tree(row, 0)?.has(row.text(1)))))];
const HAS_ANY: &[Overload] = &[overload(&[Json, Texts], Boolean, |row| {
    let tree = tree(row, 0)?;
    Ok(Value::Boolean(row.texts(1).iter().flatten().any(|name| tree.has(name))))
})];
const HAS_ALL: &[Overload] = &[overload(&[Json, Texts], Boolean, |row| {
    let tree = tree(row, 0)?;
    Ok(Value::Boolean(row.texts(1).iter().flatten().all(|name| tree.has(name))))
})];
const CONCAT: &[Overload] =
    &[overload(&[Json, Json], Json, |row| json(tree(row, 0)?.concat(tree(row, 1)?)))];
const WITHOUT: &[Overload] = &[
    overload(&[Json, Texts], Json, |row| {
        let mut left = tree(row, 0)?;
        if left.is_scalar() {
            return exec_err!("cannot delete from scalar");
        }
        for name in row.texts(1).iter().flatten() {
            left = left.without(name)?;
        }
        json(left)
    }),
    overload(&[Json, Text], Json, |row| json(tree(row, 0)?.without(row.text(1))?)),
    overload(&[Json, BigInt], Json, |row| json(tree(row, 0)?.without_index(row.int(1))?)),
];
const WITHOUT_PATH: &[Overload] = &[
    overload(&[Json, Texts], Json, |row| json(tree(row, 0)?.without_path(&row.texts(1))?)),
    overload(&[Json, Text], Json, |row| json(tree(row, 0)?.without_path(&path(row, 1)?)?)),
];
const SET: &[Overload] = &[
    overload(&[Json, Texts, Json], Json, |row| changed(row, Change::Set { create: true })),
    overload(&[Json, Text, Json], Json, |row| changed(row, Change::Set { create: true })),
    overload(&[Json, Texts, Json, Boolean], Json, |row| {
        changed(row, Change::Set { create: row.int(3) != 0 })
    }),
    overload(&[Json, Text, Json, Boolean], Json, |row| {
        changed(row, Change::Set { create: row.int(3) != 0 })
    }),
];
const INSERT: &[Overload] = &[
    overload(&[Json, Texts, Json], Json, |row| changed(row, Change::Insert { after: false })),
    overload(&[Json, Text, Json], Json, |row| changed(row, Change::Insert { after: false })),
    overload(&[Json, Texts, Json, Boolean], Json, |row| {
        changed(row, Change::Insert { after: row.int(3) != 0 })
    }),
    overload(&[Json, Text, Json, Boolean], Json, |row| {
        changed(row, Change::Insert { after: row.int(3) != 0 })
    }),
];
const SET_LAX: &[Overload] = &[
    overload(&[Json, Texts, Json], Json, set_lax),
    overload(&[Json, Text, Json], Json, set_lax),
    overload(&[Json, Texts, Json, Boolean], Json, set_lax),
    overload(&[Json, Text, Json, Boolean], Json, set_lax),
    overload(&[Json, Texts, Json, Boolean, Text], Json, set_lax),
    overload(&[Json, Text, Json, Boolean, Text], Json, set_lax),
];
const PRETTY: &[Overload] =
    &[overload(&[Json], Text, |row| Ok(Value::Text(tree(row, 0)?.pretty())))];
const STRIP: &[Overload] = &[overload(&[Json], Json, |row| json(tree(row, 0)?.stripped()))];
const JSON_STRIP: &[Overload] = &[overload(&[Json], Json, |row| {
    let mut out = String::new();
    match serde_json::from_str::<&RawValue>(row.text(0)) {
        Ok(json) if push_stripped(&mut out, json).is_some() => Ok(Value::Text(out)),
        _ => exec_err!("invalid input syntax for type json: \"{}\"", row.text(0)),
    }
})];
const OBJECT: &[Overload] = &[
    overload(&[Texts], Json, |row| object(pairs(row)?)),
    overload(&[Texts, Texts], Json, |row| object(zipped(row)?)),
];
const JSON_OBJECT: &[Overload] = &[
    overload(&[Texts], Json, |row| Ok(Value::Text(written(pairs(row)?)))),
    overload(&[Texts, Texts], Json, |row| Ok(Value::Text(written(zipped(row)?)))),
];

/// The functions.
pub fn functions() -> Vec<Arc<ScalarUDF>> {
    vec![
        function("jsonb_set", &[], SET, None),
        function("jsonb_insert", &[], INSERT, None),
        function_of_nulls("jsonb_set_lax", SET_LAX),
        function("jsonb_pretty", &[], PRETTY, None),
        function("jsonb_strip_nulls", &[], STRIP, None),
        function("json_strip_nulls", &[], JSON_STRIP, None),
        function("jsonb_object", &[], OBJECT, None),
        function("json_object", &[], JSON_OBJECT, None),
    ]
}

/// The call that an operator of JSON values stands for.
pub fn operator(op: &BinaryOperator, left: &Expr, right: &Expr) -> Option<Expr> {
    let call = |name: &'static str, overloads: &'static [Overload], swapped: bool| {
        let (left, right) = (left.clone(), right.clone());
        let args = if swapped { vec![right, left] } else { vec![left, right] };
        Some(function(name, &[], overloads, None).call(args))
    };
    match op {
        BinaryOperator::AtArrow => call("jsonb_contains", CONTAINS, false),
        BinaryOperator::ArrowAt => call("jsonb_contains", CONTAINS, true),
        BinaryOperator::Question => call("jsonb_exists", HAS, false),
        BinaryOperator::QuestionPipe => call("jsonb_exists_any", HAS_ANY, false),
        BinaryOperator::QuestionAnd => call("jsonb_exists_all", HAS_ALL, false),
        BinaryOperator::StringConcat => call("jsonb_concat", CONCAT, false),
        BinaryOperator::Minus => call("jsonb_delete", WITHOUT, false),
        BinaryOperator::HashMinus => call("jsonb_delete_path", WITHOUT_PATH, false),
        BinaryOperator::Lt => call("jsonb_lt", LESS, false),
        BinaryOperator::Gt => call("jsonb_lt", LESS, true),
        BinaryOperator::LtEq => call("jsonb_le", LESS_OR_EQUAL, false),
        BinaryOperator::GtEq => call("jsonb_le", LESS_OR_EQUAL, true),
        _ => None,
    }
}

fn tree(row: &CallRow<'_>, argument: usize) -> Result<Tree> {
    Tree::read(row.text(argument))
}

fn json(tree: Tree) -> Result<Value> {
    Ok(Value::Text(tree.write()))
}

/// A path, written as the text of an array.
fn path(row: &CallRow<'_>, argument: usize) -> Result<Vec<Option<String>>> {
    super::read::array(row.text(argument))
}

fn steps(row: &CallRow<'_>) -> Result<Vec<Option<String>>> {
    match row.is_array(1) {
        true => Ok(row.texts(1)),
        false => path(row, 1),
    }
}

fn changed(row: &CallRow<'_>, change: Change) -> Result<Value> {
    json(tree(row, 0)?.with(&steps(row)?, tree(row, 2)?, change)?)
}

fn set_lax(row: &CallRow<'_>) -> Result<Value> {
    let create = row.len() < 4 || row.int(3) != 0;
    if row.is_null(0) || row.is_null(1) || (row.len() > 3 && row.is_null(3)) {
        return Ok(Value::Null);
    }
    if row.len() > 4 && row.is_null(4) {
        return exec_err!("null_value_treatment must be one of the four words");
    }
    if !row.is_null(2) {
        return changed(row, Change::Set { create });
    }
    match if row.len() > 4 { row.text(4) } else { "use_json_null" } {
        "raise_exception" => exec_err!("JSON value must not be null"),
        "use_json_null" => {
            json(tree(row, 0)?.with(&steps(row)?, Tree::Null, Change::Set { create })?)
        }
        "delete_key" => json(tree(row, 0)?.without_path(&steps(row)?)?),
        "return_target" => json(tree(row, 0)?),
        _ => exec_err!("null_value_treatment must be one of the four words"),
    }
}

/// JSON as it is written, but for white space and for members of objects that are null.
fn push_stripped(out: &mut String, json: &RawValue) -> Option<()> {
    let text = json.get().trim();
    match text.as_bytes().first()? {
        b'{' => {
            out.push('{');
            let mut first = true;
            for (name, value) in super::json::members(text).ok()? {
                if value.get().trim() == "null" {
                    continue;
                }
                if !first {
                    out.push(',');
                }
                first = false;
                out.push_str(&serde_json::Value::String(name).to_string());
                out.push(':');
                push_stripped(out, value)?;
            }
            out.push('}');
        }
        b'[' => {
            let items: Vec<&RawValue> = serde_json::from_str(text).ok()?;
            out.push('[');
            for (n, item) in items.into_iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                push_stripped(out, item)?;
            }
            out.push(']');
        }
        b'"' => {
            let text: String = serde_json::from_str(text).ok()?;
            out.push_str(&serde_json::Value::String(text).to_string());
        }
        _ => out.push_str(text),
    }
    Some(())
}

type Pairs = Vec<(String, Option<String>)>;

fn name(name: Option<String>) -> Result<String> {
    name.map_or_else(|| exec_err!("null value not allowed for object key"), Ok)
}

fn pairs(row: &CallRow<'_>) -> Result<Pairs> {
    let mut items = row.texts(0).into_iter();
    if items.len() % 2 == 1 {
        return exec_err!("array must have even number of elements");
    }
    let mut pairs = Vec::new();
    while let (Some(key), Some(value)) = (items.next(), items.next()) {
        pairs.push((name(key)?, value));
    }
    Ok(pairs)
}

fn zipped(row: &CallRow<'_>) -> Result<Pairs> {
    let (names, values) = (row.texts(0), row.texts(1));
    if names.len() != values.len() {
        return exec_err!("mismatched array dimensions");
    }
    names.into_iter().zip(values).map(|(key, value)| Ok((name(key)?, value))).collect()
}

fn object(pairs: Pairs) -> Result<Value> {
    let mut members = Vec::new();
    for (name, value) in pairs {
        put(&mut members, name, value.map_or(Tree::Null, Tree::Text));
    }
    json(Tree::Object(members))
}

/// With the spaces of PostgreSQL's type json.
fn written(pairs: Pairs) -> String {
    let quoted = |text: String| serde_json::Value::String(text).to_string();
    let pair = |(name, value): (String, Option<String>)| {
        format!("{} : {}", quoted(name), value.map_or("null".to_string(), quoted))
    };
    format!("{{{}}}", pairs.into_iter().map(pair).collect::<Vec<_>>().join(", "))
}
