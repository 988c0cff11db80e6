//! The text of PostgreSQL's type jsonb: members in the order of their names' lengths and bytes, the last one of a
//! name alone, numbers without exponents, one space behind a comma and a colon.

use std::collections::BTreeMap;

use datafusion_common::{Result, exec_err};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Most digits that a number may have once its exponent is written out.
const DIGITS_MAX: usize = 1000;

/// JSON's text as jsonb has it.
pub fn canonical(text: &str) -> Result<String> {
    let mut out = String::new();
    match serde_json::from_str::<&RawValue>(text) {
        Ok(value) if push(&mut out, value).is_some() => Ok(out),
        _ => exec_err!("invalid input syntax for type json: \"{text}\""),
    }
}

fn push(out: &mut String, value: &RawValue) -> Option<()> {
    let text = value.get().trim();
    match text.as_bytes().first()? {
        b'{' => {
            let MembersInOrder(members) = serde_json::from_str(text).ok()?;
            out.push('{');
            for (n, ((_, name), value)) in members.iter().enumerate() {
                if n > 0 {
                    out.push_str(", ");
                }
                push_text(out, name)?;
                out.push_str(": ");
                push(out, value)?;
            }
            out.push('}');
        }
        b'[' => {
            let items: Vec<&RawValue> = serde_json::from_str(text).ok()?;
            out.push('[');
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    out.push_str(", ");
                }
                push(out, item)?;
            }
            out.push(']');
        }
        b'"' => {
            let text: String = serde_json::from_str(text).ok()?;
            // PostgreSQL's text has no zero character.
            if text.contains('\0') {
                return None;
            }
            push_text(out, &text)?;
        }
        b't' | b'f' | b'n' => out.push_str(text),
        _ => out.push_str(&number(text)?),
    }
    Some(())
}

fn push_text(out: &mut String, text: &str) -> Option<()> {
    out.push_str(&serde_json::to_string(text).ok()?);
    Some(())
}

/// A number without an exponent, with the digits behind the point that it was written with.
pub fn number(text: &str) -> Option<String> {
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], text[at + 1..].parse::<i64>().ok()?),
        None => (text, 0),
    };
    let (sign, digits) = match mantissa.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", mantissa),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let mut all = format!("{whole}{fraction}");
    let mut point = whole.len() as i64 + exponent;
    if point.unsigned_abs() as usize > DIGITS_MAX {
        return None;
    }
    if point <= 0 {
        all = format!("{}{all}", "0".repeat((1 - point) as usize));
        point = 1;
    }
    if all.len() < point as usize {
        all.push_str(&"0".repeat(point as usize - all.len()));
    }
    let (whole, fraction) = all.split_at(point as usize);
    let whole = whole.trim_start_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    let zero = all.bytes().all(|digit| digit == b'0');
    let sign = if zero { "" } else { sign };
    Some(match fraction.is_empty() {
        true => format!("{sign}{whole}"),
        false => format!("{sign}{whole}.{fraction}"),
    })
}

/// The members of an object in the order of jsonb.
pub fn members(text: &str) -> Option<Vec<(String, &RawValue)>> {
    let MembersInOrder(members) = serde_json::from_str(text).ok()?;
    Some(members.into_iter().map(|((_, name), value)| (name, value)).collect())
}

/// Members by the length of their names, then by the names.
struct MembersInOrder<'a>(BTreeMap<(usize, String), &'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for MembersInOrder<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = BTreeMap<(usize, String), &'de RawValue>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Self::Value, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                    members.insert((name.len(), name), value);
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Visitor).map(MembersInOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_ordered_and_the_last_of_a_name_counts() {
        for (text, jsonb) in [
            ("{\"bb\":1,  \"a\":2,\"a\":[ ]}", "{\"a\": [], \"bb\": 1}"),
            ("[1e2,1.50,-0,1.5e1, 1e-3]", "[100, 1.50, 0, 15, 0.001]"),
            ("\"\\u00e4\\n\"", "\"ä\\n\""),
        ] {
            assert_eq!(canonical(text).unwrap(), jsonb);
        }
        assert!(canonical("[1,").is_err());
    }
}
