//! JSON objects as most events have them, read quickly: texts without escapes, numbers, truth values
//! and null, no array and no object in them. Whatever is otherwise, errors too, is left to serde_json,
//! which would read the same of these.

/// The most digits of an integer here; all of them fit 64 bits.
const DIGITS_MAX: usize = 18;

/// A value, and its text.
pub struct PlainValue<'a> {
    pub raw: &'a str,
    pub kind: PlainKind<'a>,
}

/// The kind of a value, with its content.
pub enum PlainKind<'a> {
    Text(&'a str),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Null,
}

/// A place in the text of an object. Its methods give `None` where something else stands than they look for.
pub struct PlainCursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> PlainCursor<'a> {
    /// At the beginning.
    pub fn new(text: &'a str) -> Self {
        PlainCursor { text, at: 0 }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The next byte that is not white space.
    #[inline]
    pub fn token(&mut self) -> Option<u8> {
        loop {
            let byte = self.peek()?;
            self.at += 1;
            if !matches!(byte, b' ' | b'\n' | b'\t' | b'\r') {
                return Some(byte);
            }
        }
    }

    /// The rest of a text whose first quote was taken.
    #[inline]
    pub fn text(&mut self) -> Option<&'a str> {
        let start = self.at;
        let len = plain_len(&self.text.as_bytes()[start..]);
        self.at += len;
        let quoted = self.peek()? == b'"';
        self.at += 1;
        if quoted { self.text.get(start..start + len) } else { None }
    }

    /// A value.
    #[inline]
    pub fn value(&mut self) -> Option<PlainValue<'a>> {
        let first = self.token()?;
        let start = self.at - 1;
        let kind = match first {
            b'"' => PlainKind::Text(self.text()?),
            b'-' | b'0'..=b'9' => return self.number(start),
            b't' => self.word(start, "true", PlainKind::Boolean(true))?,
            b'f' => self.word(start, "false", PlainKind::Boolean(false))?,
            b'n' => self.word(start, "null", PlainKind::Null)?,
            _ => return None,
        };
        Some(PlainValue { raw: self.text.get(start..self.at)?, kind })
    }

    fn word(&mut self, start: usize, word: &str, kind: PlainKind<'a>) -> Option<PlainKind<'a>> {
        self.at = start + word.len();
        (self.text.get(start..self.at)? == word).then_some(kind)
    }

    #[inline]
    fn number(&mut self, start: usize) -> Option<PlainValue<'a>> {
        let bytes = self.text.as_bytes();
        let negative = bytes[start] == b'-';
        let first = start + usize::from(negative);
        let (mut at, mut number) = (first, 0_i64);
        while let Some(digit @ b'0'..=b'9') = bytes.get(at) {
            number = number.wrapping_mul(10).wrapping_add(i64::from(digit - b'0'));
            at += 1;
        }
        let digits = at - first;
        if matches!(bytes.get(at)?, b'.' | b'e' | b'E') {
            while let b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-' = bytes.get(at)? {
                at += 1;
            }
            self.at = at;
            let raw = self.text.get(start..at)?;
            let float = serde_json::from_str(raw).ok()?;
            return Some(PlainValue { raw, kind: PlainKind::Float(float) });
        }
        self.at = at;
        // A zero has no digits behind it, and no sign, which would make it a float.
        let zero_first = bytes[first] == b'0' && (digits > 1 || negative);
        if digits == 0 || digits > DIGITS_MAX || zero_first {
            return None;
        }
        let number = if negative { -number } else { number };
        Some(PlainValue { raw: self.text.get(start..at)?, kind: PlainKind::Integer(number) })
    }
}

/// Number of bytes before a quote, an escape, or a control character, which a text must not have.
#[inline]
fn plain_len(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // The highest bit of each byte that is zero; above the first one also of others.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word;
    let mut at = 0;
    while let Some(chunk) = bytes[at..].first_chunk::<8>() {
        let word = u64::from_le_bytes(*chunk);
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let quote = zeros(word ^ (ONES * u64::from(b'"')));
        let escape = zeros(word ^ (ONES * u64::from(b'\\')));
        let found = (control | quote | escape) & (ONES * 0x80);
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let ends = |byte: &u8| *byte < 0x20 || matches!(byte, b'"' | b'\\');
    at + bytes[at..].iter().position(ends).unwrap_or(bytes.len() - at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_ends_at_a_quote_an_escape_or_a_control_character_wherever_it_is() {
        for end in [b'"', b'\\', 0, 0x1f, b'\n'] {
            for at in 0..20 {
                let mut bytes = "aé!#[]~\u{7f}ÿ😀 zzzzzzzzzzzz".as_bytes().to_vec();
                bytes.truncate(at);
                bytes.push(end);
                bytes.extend_from_slice(b"\"\"\"");
                assert_eq!(plain_len(&bytes), at, "{bytes:?}");
                bytes.truncate(at);
                assert_eq!(plain_len(&bytes), at);
            }
        }
    }

    #[test]
    fn values_are_what_serde_json_reads_or_nothing() {
        let plain = [
            "0",
            "1",
            "-1",
            "123456789012345678",
            "-123456789012345678",
            "1.5",
            "-0.0",
            "1e3",
            "2E-2",
            "true",
            "false",
            "null",
            r#""""#,
            r#""abc""#,
            r#""é😀""#,
        ];
        let others = [
            "",
            "-",
            "-0",
            "01",
            "-01",
            "1234567890123456789",
            "1.",
            ".5",
            "1e",
            "1e999",
            "+1",
            "tru",
            "nul",
            "[",
            "{",
            r#""a"#,
            r#""a\n""#,
            "\"a\nb\"",
            "1-",
            "1.2.3",
        ];
        for (text, is_plain) in
            plain.map(|t| (t, true)).into_iter().chain(others.map(|t| (t, false)))
        {
            // A number does not know where it ends but by what follows.
            let object = format!("{text},");
            let mut cursor = PlainCursor::new(&object);
            let found = cursor.value().filter(|_| cursor.token() == Some(b','));
            assert_eq!(found.is_some(), is_plain, "{text}");
            let Some(found) = found else { continue };
            assert_eq!(found.raw, text);
            let found: serde_json::Value = match found.kind {
                PlainKind::Text(text) => text.into(),
                PlainKind::Integer(number) => number.into(),
                PlainKind::Float(number) => number.into(),
                PlainKind::Boolean(value) => value.into(),
                PlainKind::Null => serde_json::Value::Null,
            };
            assert_eq!(serde_json::from_str::<serde_json::Value>(text).unwrap(), found, "{text}");
        }
    }
}
