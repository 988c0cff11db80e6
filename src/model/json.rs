//! When two JSON texts are the same value. They are brought into one form: members sorted, numbers
//! as digits and exponent, text unescaped. Numbers stay exact, whatever their size.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// Whether two JSON texts, each valid and of bounded depth, are equal as values.
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    a == b || (canonical(a).is_some() && canonical(a) == canonical(b))
}

/// The text that valid JSON stands for; `None` when it is not text, or not valid Unicode.
pub fn string(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        return serde_json::from_str(raw).ok().map(Cow::Owned);
    }
    Some(Cow::Borrowed(inner))
}

/// The same JSON with characters in place of their `\u` escapes, where JSON allows it: quotes, backslashes,
/// control characters, and halves of surrogate pairs stay escaped.
pub fn without_escapes(raw: &str) -> Cow<'_, str> {
    if !raw.contains("\\u") {
        return Cow::Borrowed(raw);
    }
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let (taken, character) = escaped_character(rest);
        match character {
            Some(character) => out.push(character),
            None => out.push_str(&rest[..taken]),
        }
        rest = &rest[taken..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// The length in bytes of the escape at the beginning of a text, and the character that may replace it.
fn escaped_character(text: &str) -> (usize, Option<char>) {
    let unit = |at: usize| {
        let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u32::from_str_radix(digits, 16).ok()
    };
    let Some(first) = unit(0) else {
        // A backslash and the character behind it.
        let length = text.chars().take(2).map(char::len_utf8).sum();
        return (length, None);
    };
    let pair = match (first, unit(6)) {
        (0xd800..0xdc00, Some(second @ 0xdc00..0xe000)) => {
            char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00))
        }
        _ => None,
    };
    if pair.is_some() {
        return (12, pair);
    }
    let is_plain = |c: &char| !c.is_control() && *c != '"' && *c != '\\';
    (6, char::from_u32(first).filter(is_plain))
}

/// A member's name as a part of a JSON pointer (RFC 6901).
pub fn pointer_token(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn canonical(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    write(std::str::from_utf8(text).ok()?.trim(), &mut out)?;
    Some(out)
}

/// Recursion is as deep as the text nests.
fn write(raw: &str, out: &mut Vec<u8>) -> Option<()> {
    match raw.bytes().next()? {
        b'{' => {
            let members: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(raw).ok()?;
            out.push(b'{');
            for (name, value) in members {
                write_text(&name, out);
                write(value.get(), out)?;
            }
            out.push(b'}');
        }
        b'[' => {
            let items: Vec<&RawValue> = serde_json::from_str(raw).ok()?;
            out.push(b'[');
            for item in items {
                write(item.get(), out)?;
            }
            out.push(b']');
        }
        // A text that is not Unicode (half of a surrogate pair) equals only its own spelling.
        b'"' => match string(raw) {
            Some(text) => write_text(&text, out),
            None => out.extend_from_slice(raw.as_bytes()),
        },
        b't' | b'f' | b'n' => out.extend_from_slice(raw.as_bytes()),
        _ => write_number(raw, out),
    }
    Some(())
}

/// Length first, so that no text can look like another one and what follows it.
fn write_text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("\"{}:", text.len()).as_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// The significant digits as an integer, and the power of ten that it is multiplied by.
fn write_number(raw: &str, out: &mut Vec<u8>) {
    let (negative, rest) = match raw.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, raw),
    };
    let (mantissa, exponent) = rest.split_once(['e', 'E']).unwrap_or((rest, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_start_matches('0');
    let trimmed = significant.trim_end_matches('0');
    let Ok(exponent) = exponent.parse::<i64>() else {
        // An exponent of more than 18 digits: only the same spelling is the same number.
        return out.extend_from_slice(raw.as_bytes());
    };
    if trimmed.is_empty() {
        return out.extend_from_slice(b"#0");
    }
    let zeros = (significant.len() - trimmed.len()) as i64;
    let power = exponent.saturating_add(zeros).saturating_sub(fraction.len() as i64);
    let sign = if negative { "-" } else { "" };
    out.extend_from_slice(format!("#{sign}{trimmed}e{power};").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(a: &str, b: &str, same: bool) {
        assert_eq!(equal(a.as_bytes(), b.as_bytes()), same, "{a} and {b}");
    }

    #[test]
    fn escapes_become_characters_where_json_needs_none() {
        for (raw, expected) in [
            (r#"{"\u006b":"caf\u00e9 \ud83d\ude00"}"#, r#"{"k":"café 😀"}"#),
            (r#""\u0022\u005c\u0000\u001f\u007f""#, r#""\u0022\u005c\u0000\u001f\u007f""#),
            (r#""\ud83d x \ude00\ud83d""#, r#""\ud83d x \ude00\ud83d""#),
            (r#""\\u00e9 \n\u00E9\\""#, r#""\\u00e9 \né\\""#),
            (r#""\é\u00e9""#, r#""\éé""#),
            (r#"[1.50, "é"]"#, r#"[1.50, "é"]"#),
        ] {
            assert_eq!(without_escapes(raw), expected, "{raw}");
        }
    }

    #[test]
    fn json_values_are_equal_whatever_their_spelling() {
        check(r#"{"a": 1, "b": [true, null]}"#, r#"{"b":[true,null],"a":1}"#, true);
        check(r#"{"a":"\u00e4\n"}"#, "{\"a\":\"ä\\n\"}", true);
        check("{\"\\u0061\":1}", "{\"a\":1}", true);
        for (a, b) in [("1", "1.0"), ("100", "1e2"), ("0.10", "1E-1"), ("-0", "0"), ("0e9", "0")] {
            check(&format!("[{a}]"), &format!("[{b}]"), true);
        }
    }

    #[test]
    fn json_values_that_differ_are_not_equal() {
        check("[1,2]", "[12]", false);
        check("[1]", "[-1]", false);
        check("[0.1000000000000000001]", "[0.1]", false);
        check("[9007199254740993]", "[9007199254740992]", false);
        check(r#"{"a":1}"#, r#"{"a":1,"b":null}"#, false);
        check(r#"["1"]"#, "[1]", false);
        check(r#"["a","b"]"#, r#"["a\",\"b"]"#, false);
        check("[1,[2]]", "[[1],2]", false);
    }
}
