//! A reason taken apart: the text that many reasons share, and the value in it.
//!
//! A million values that cannot be cast give a million reasons. The text around the value is kept
//! once, so that each further reason takes the bytes of its value.

use smallvec::SmallVec;

/// The longest reason that is kept; longer ones end in `…`.
const REASON_BYTES_MAX: usize = 1024;

/// The value in a reason. Up to 16 bytes need no memory of their own.
pub type ReasonValue = SmallVec<[u8; 16]>;

/// A reason without the value in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Template {
    text: Box<str>,
    /// The byte of `text` before which the value stands.
    at: usize,
}

/// Takes a reason apart. The value is what stands in quotes; without quotes, all from the first digit
/// to the last. Equal reasons have equal parts.
pub fn split(reason: &str) -> (Template, ReasonValue) {
    let reason = &*shortened(reason);
    let (from, to) = quoted(reason)
        .or_else(|| Some((reason.find(is_digit)?, reason.rfind(is_digit)? + 1)))
        .unwrap_or((reason.len(), reason.len()));
    let text = [&reason[..from], &reason[to..]].concat().into();
    (Template { text, at: from }, SmallVec::from_slice(&reason.as_bytes()[from..to]))
}

fn is_digit(c: char) -> bool {
    c.is_ascii_digit()
}

/// The bytes between the first quote and the last one of its kind.
fn quoted(reason: &str) -> Option<(usize, usize)> {
    let from = reason.find(['\'', '"'])?;
    let quote = char::from(reason.as_bytes()[from]);
    let to = reason.rfind(quote)?;
    (from < to).then_some((from + 1, to))
}

fn shortened(reason: &str) -> std::borrow::Cow<'_, str> {
    if reason.len() <= REASON_BYTES_MAX {
        return reason.into();
    }
    let end = reason.floor_char_boundary(REASON_BYTES_MAX - '…'.len_utf8());
    format!("{}…", &reason[..end]).into()
}

impl Template {
    /// The reason with this value.
    pub fn with(&self, value: &[u8]) -> String {
        let (head, tail) = self.text.split_at(self.at);
        format!("{head}{}{tail}", String::from_utf8_lossy(value))
    }

    /// The length of its text in bytes.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// The search for reasons of this template that contain `text`.
    pub fn search<'a>(&'a self, text: &'a str) -> ReasonSearch<'a> {
        let (head, tail) = self.text.split_at(self.at);
        if head.contains(text) || tail.contains(text) {
            return ReasonSearch::Matches;
        }
        // The starts of `text` in `head` that reach beyond it, and the ends of `text` in `tail`.
        let inner = || text.char_indices().map(|(at, _)| at).skip(1).chain([text.len()]);
        let behind_head =
            inner().filter(|at| head.ends_with(&text[..*at])).map(|at| &text.as_bytes()[at..]);
        let before_tail = text.char_indices().map(|(at, _)| at);
        let before_tail = before_tail
            .filter(|at| tail.starts_with(&text[*at..]))
            .map(|at| &text.as_bytes()[..at]);
        ReasonSearch::ReasonValue {
            text: text.as_bytes(),
            head: head.as_bytes(),
            tail: tail.as_bytes(),
            behind_head: behind_head.collect(),
            before_tail: before_tail.collect(),
        }
    }
}

/// A search for a text in the reasons of one template.
pub enum ReasonSearch<'a> {
    /// All reasons of the template contain the text.
    Matches,
    /// The text is in the value, or overlaps its edges.
    ReasonValue {
        text: &'a [u8],
        head: &'a [u8],
        tail: &'a [u8],
        /// The rests of the text that must follow the head, one for each start within it.
        behind_head: Vec<&'a [u8]>,
        /// The beginnings of the text that must precede the tail, one for each end within it.
        before_tail: Vec<&'a [u8]>,
    },
}

impl ReasonSearch<'_> {
    /// True if the reason with this value contains the text.
    pub fn finds(&self, value: &[u8]) -> bool {
        let ReasonSearch::ReasonValue { text, head, tail, behind_head, before_tail } = self else {
            return true;
        };
        value.windows(text.len()).any(|window| window == *text)
            || behind_head.iter().any(|rest| match rest.strip_prefix(value) {
                Some(behind) => tail.starts_with(behind),
                None => value.starts_with(rest),
            })
            || before_tail.iter().any(|rest| match rest.strip_suffix(value) {
                Some(before) => head.ends_with(before),
                None => value.ends_with(rest),
            })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reasons_that_differ_in_a_value_share_a_template() {
        let template = |reason: &str| split(reason).0;
        for (a, b) in [
            ("cannot cast 'x1' to INT", "cannot cast 'it''s' to INT"),
            ("/k: expected TEXT, found the number 1", "/k: expected TEXT, found the number 23"),
            ("/k: expected INT, found \"a\"", "/k: expected INT, found \"\""),
            ("overflow: 1 + 2", "overflow: 30 + 4"),
        ] {
            assert_eq!(template(a), template(b));
        }
        assert_ne!(template("division by zero"), template("overflow"));
    }

    proptest! {
        #[test]
        fn the_parts_of_a_reason_give_it_back(reason in "[a-z '\"0-9…é]{0,40}") {
            let (template, value) = split(&reason);
            prop_assert_eq!(template.with(&value), reason);
        }

        #[test]
        fn a_search_finds_what_the_reason_contains(reason in "[ab'1]{0,12}", text in "[ab'1]{1,4}") {
            let (template, value) = split(&reason);
            prop_assert_eq!(template.search(&text).finds(&value), reason.contains(&text));
        }
    }

    #[test]
    fn long_reasons_are_cut() {
        let (template, value) = split(&"é".repeat(REASON_BYTES_MAX));
        let kept = template.with(&value);
        assert!(kept.len() <= REASON_BYTES_MAX && kept.ends_with('…'), "{kept}");
        assert_eq!(split(&kept), (template, value));
    }
}
