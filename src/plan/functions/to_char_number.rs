//! `to_char(number, pattern)` with PostgreSQL's patterns, in the locale C: the point is `.`, groups are parted by `,`,
//! and there is no currency.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use datafusion_common::{Result, exec_err, plan_err};
use datafusion_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use num_bigint::BigInt;

use super::decimal::Numbers;
use super::limits::check_bytes;
use crate::aggregate::rounded_quotient;

/// The decimal digits that floats surely have.
const DOUBLE_DIGITS: usize = 15;
const REAL_DIGITS: usize = 6;

/// `to_char` of numbers; for anything else the inner function.
pub fn beside(inner: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    let signature = Signature::user_defined(Volatility::Immutable);
    Arc::new(ScalarUDF::new_from_impl(ToChar { inner, signature }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ToChar {
    inner: Arc<ScalarUDF>,
    signature: Signature,
}

impl ScalarUDFImpl for ToChar {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [number, pattern]
                if number.is_numeric() && (pattern.is_string() || pattern.is_null()) =>
            {
                Ok(vec![number.clone(), DataType::Utf8])
            }
            [DataType::Interval(_) | DataType::Duration(_), _] => plan_err!(
                "to_char of an interval is not supported: CAST(… AS TEXT) writes it, extract(… FROM …) takes it apart"
            ),
            _ => self.inner.coerce_types(types),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let of = args.args[0].data_type();
        if !of.is_numeric() {
            return self.inner.invoke_with_args(args);
        }
        let rows = args.number_rows;
        let arrays: Vec<ArrayRef> =
            args.args.into_iter().map(|arg| arg.into_array(rows)).collect::<Result<_>>()?;
        let patterns = arrays[1].as_string::<i32>();
        let is_null = |row: usize| arrays.iter().any(|array| array.is_null(row));
        let texts: StringArray = if of.is_floating() {
            let digits = if of == DataType::Float64 { DOUBLE_DIGITS } else { REAL_DIGITS };
            let values = cast(&arrays[0], &DataType::Float64)?;
            let values = values.as_primitive::<Float64Type>();
            let text = |row: usize| match is_null(row) {
                true => Ok(None),
                false => {
                    Pattern::new(patterns.value(row))?.float(values.value(row), digits).map(Some)
                }
            };
            (0..rows).map(text).collect::<Result<_>>()?
        } else {
            let values = Numbers::new(&arrays[0])?;
            let scale = values.scale.unsigned_abs().into();
            let kind = match of {
                DataType::Int8 | DataType::Int16 | DataType::Int32 => NumberType::Int,
                of if of.is_integer() => NumberType::BigInt,
                _ => NumberType::Numeric,
            };
            let text = |row: usize| match is_null(row) {
                true => Ok(None),
                false => Pattern::new(patterns.value(row))?
                    .exact(&values.wide(row), scale, kind)
                    .map(Some),
            };
            (0..rows).map(text).collect::<Result<_>>()?
        };
        Ok(ColumnarValue::Array(Arc::new(texts)))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Comma,
    Point,
    Zero,
    Nine,
    Blank,
    Exponent,
    Fill,
    Group,
    Currency,
    Minus,
    Plus,
    Brackets,
    Roman,
    RomanLower,
    Sign,
    Signed,
    Ordinal,
    OrdinalLower,
    Shift,
}

const WORDS: [(&str, Word); 20] = [
    (",", Word::Comma),
    (".", Word::Point),
    ("0", Word::Zero),
    ("9", Word::Nine),
    ("B", Word::Blank),
    ("D", Word::Point),
    ("EEEE", Word::Exponent),
    ("FM", Word::Fill),
    ("G", Word::Group),
    ("L", Word::Currency),
    ("MI", Word::Minus),
    ("PL", Word::Plus),
    ("PR", Word::Brackets),
    ("RN", Word::Roman),
    ("rn", Word::RomanLower),
    ("SG", Word::Sign),
    ("S", Word::Signed),
    ("TH", Word::Ordinal),
    ("th", Word::OrdinalLower),
    ("V", Word::Shift),
];

/// The type of a number, which decides which of PostgreSQL's functions formats it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NumberType {
    Int,
    BigInt,
    Numeric,
}

enum NumberPatternNode {
    Word(Word),
    Character(char),
}

/// Where a sign stands that moves with the number.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Anchor {
    None,
    Before,
    Behind,
}

/// A pattern, and what is known of it before it is filled.
struct Pattern {
    nodes: Vec<NumberPatternNode>,
    /// Digits before the point, behind it, and those that a shift adds.
    pre: usize,
    post: usize,
    shift: usize,
    zero: bool,
    zero_start: usize,
    zero_end: usize,
    point: bool,
    fill: bool,
    minus: bool,
    plus: bool,
    brackets: bool,
    roman: bool,
    exponent: bool,
    has_shift: bool,
    anchor: Anchor,
    digits_before_sign: usize,
}

impl Pattern {
    fn new(text: &str) -> Result<Pattern> {
        let mut pattern = Pattern {
            nodes: nodes(text),
            pre: 0,
            post: 0,
            shift: 0,
            zero: false,
            zero_start: 0,
            zero_end: 0,
            point: false,
            fill: false,
            minus: false,
            plus: false,
            brackets: false,
            roman: false,
            exponent: false,
            has_shift: false,
            anchor: Anchor::None,
            digits_before_sign: 0,
        };
        let words: Vec<Word> = pattern
            .nodes
            .iter()
            .filter_map(|node| match node {
                NumberPatternNode::Word(word) => Some(*word),
                NumberPatternNode::Character(_) => None,
            })
            .collect();
        let is_digit = |word: &Word| matches!(word, Word::Nine | Word::Zero);
        let is_roman = |word: &Word| matches!(word, Word::Roman | Word::RomanLower);
        let stands_alone = |word: &Word| is_roman(word) || *word == Word::Fill;
        if words.iter().any(is_roman) && !words.iter().all(stands_alone) {
            return exec_err!("\"RN\" beside other formats is not supported");
        }
        if !words.is_empty() && !words.iter().any(|word| is_digit(word) || is_roman(word)) {
            return exec_err!("a number format without \"9\" or \"0\" is not supported");
        }
        for word in words {
            pattern.learn(word)?;
        }
        Ok(pattern)
    }

    fn learn(&mut self, word: Word) -> Result<()> {
        if self.exponent && word != Word::Exponent {
            return exec_err!("\"EEEE\" must be the last pattern used");
        }
        match word {
            Word::Nine if self.brackets => return exec_err!("\"9\" must be ahead of \"PR\""),
            Word::Nine if self.has_shift => self.shift += 1,
            Word::Nine if self.point => self.post += 1,
            Word::Nine => self.pre += 1,
            Word::Zero => {
                if self.brackets {
                    return exec_err!("\"0\" must be ahead of \"PR\"");
                }
                if !self.zero && !self.point {
                    self.zero = true;
                    self.zero_start = self.pre;
                }
                *(if self.point { &mut self.post } else { &mut self.pre }) += 1;
                self.zero_end = self.pre + self.post;
            }
            Word::Point => {
                if self.point {
                    return exec_err!("multiple decimal points");
                }
                if self.has_shift {
                    return exec_err!("cannot use \"V\" and decimal point together");
                }
                self.point = true;
            }
            Word::Fill => self.fill = true,
            Word::Signed => {
                if self.anchor != Anchor::None {
                    return exec_err!("cannot use \"S\" twice");
                }
                if self.plus || self.minus || self.brackets {
                    return exec_err!("cannot use \"S\" and \"PL\"/\"MI\"/\"SG\"/\"PR\" together");
                }
                match self.point {
                    true => self.anchor = Anchor::Behind,
                    false => {
                        self.anchor = Anchor::Before;
                        self.digits_before_sign = self.pre;
                    }
                }
            }
            Word::Minus | Word::Plus | Word::Sign => {
                if self.anchor != Anchor::None {
                    return exec_err!("cannot use \"S\" and \"MI\"/\"PL\"/\"SG\" together");
                }
                self.minus |= word != Word::Plus;
                self.plus |= word != Word::Minus;
            }
            Word::Brackets => {
                if self.anchor != Anchor::None || self.plus || self.minus {
                    return exec_err!("cannot use \"PR\" and \"S\"/\"PL\"/\"MI\"/\"SG\" together");
                }
                self.brackets = true;
            }
            Word::Roman | Word::RomanLower => self.roman = true,
            Word::Shift => {
                if self.point {
                    return exec_err!("cannot use \"V\" and decimal point together");
                }
                self.has_shift = true;
            }
            Word::Exponent => {
                let others = self.fill
                    || self.anchor != Anchor::None
                    || self.brackets
                    || self.minus
                    || self.plus
                    || self.roman
                    || self.has_shift;
                if self.exponent || others {
                    return exec_err!("\"EEEE\" is incompatible with other formats");
                }
                self.exponent = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn exact(mut self, value: &BigInt, scale: u32, kind: NumberType) -> Result<String> {
        let ten = |by: usize| BigInt::from(10).pow(by as u32);
        if self.roman {
            let whole = rounded_quotient(value, &ten(scale as usize));
            return match i32::try_from(&whole) {
                Ok(whole) => self.roman(Some(whole.into())),
                Err(_) => exec_err!("integer out of range"),
            };
        }
        if self.exponent {
            return Ok(scientific(value, scale, self.post, kind));
        }
        let mut value = value * ten(self.shift);
        if kind == NumberType::BigInt && i64::try_from(&value).is_err() {
            return exec_err!("bigint out of range");
        }
        if kind == NumberType::Int {
            // Only the low 32 bits are kept.
            value = BigInt::from(i128::try_from(&value).unwrap_or(0) as i32);
        }
        self.pre += self.shift;
        let unscaled = match self.post as u32 >= scale {
            true => &value * ten(self.post - scale as usize),
            false => rounded_quotient(&value, &ten(scale as usize - self.post)),
        };
        let negative = unscaled.sign() == num_bigint::Sign::Minus;
        let mut digits = unscaled.magnitude().to_string();
        if digits.len() <= self.post {
            digits = format!("{}{digits}", "0".repeat(self.post + 1 - digits.len()));
        }
        let (whole, fraction) = digits.split_at(digits.len() - self.post);
        self.filled(whole, fraction, negative)
    }

    fn float(mut self, value: f64, float_digits: usize) -> Result<String> {
        if self.roman {
            let rounded = value.round_ties_even();
            return self.roman((rounded.abs() < 1e9).then_some(rounded as i64));
        }
        if self.exponent {
            if !value.is_finite() {
                return Ok(format!(" {}.{}", "#".repeat(self.pre), "#".repeat(self.post + 4)));
            }
            let text = format!("{value:.*e}", self.post);
            let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let exponent: i32 = exponent.parse().unwrap_or(0);
            return Ok(with_exponent(mantissa, exponent));
        }
        let value = value * 10_f64.powi(self.shift as i32);
        self.pre += self.shift;
        let word = match value {
            value if value.is_nan() => Some("NaN"),
            value if value.is_infinite() => Some("Infinity"),
            _ => None,
        };
        let whole = word.map_or_else(|| format!("{:.0}", value.abs()).len(), str::len);
        if whole >= float_digits {
            self.post = 0;
        } else if whole + self.post > float_digits {
            self.post = float_digits - whole;
        }
        if let Some(word) = word {
            return self.filled(word, "", value < 0.0);
        }
        let text = format!("{value:.*}", self.post);
        let (negative, text) = match text.strip_prefix('-') {
            Some(text) => (true, text),
            None => (false, text.as_str()),
        };
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        self.filled(whole, fraction, negative)
    }

    fn roman(&self, value: Option<i64>) -> Result<String> {
        const ONES: [(&str, i64); 13] = [
            ("M", 1000),
            ("CM", 900),
            ("D", 500),
            ("CD", 400),
            ("C", 100),
            ("XC", 90),
            ("L", 50),
            ("XL", 40),
            ("X", 10),
            ("IX", 9),
            ("V", 5),
            ("IV", 4),
            ("I", 1),
        ];
        let mut numeral = String::new();
        match value.filter(|value| (1..4000).contains(value)) {
            Some(mut value) => {
                for (letters, worth) in ONES {
                    while value >= worth {
                        numeral.push_str(letters);
                        value -= worth;
                    }
                }
            }
            None => numeral = "#".repeat(15),
        }
        let mut out = String::new();
        for node in &self.nodes {
            match node {
                NumberPatternNode::Character(c) => out.push(*c),
                NumberPatternNode::Word(word @ (Word::Roman | Word::RomanLower)) => {
                    let text = match word {
                        Word::Roman => numeral.clone(),
                        _ => numeral.to_lowercase(),
                    };
                    match self.fill {
                        true => out.push_str(&text),
                        false => out.push_str(&format!("{text:>15}")),
                    }
                }
                NumberPatternNode::Word(_) => {}
            }
        }
        Ok(out)
    }

    /// The pattern filled with digits (PostgreSQL's `NUM_processor`).
    fn filled(mut self, whole: &str, fraction: &str, negative: bool) -> Result<String> {
        check_bytes(self.nodes.len() + whole.len() + fraction.len())?;
        let mut number: Vec<char> = whole.chars().collect();
        let mut spaces = 0;
        if number.len() < self.pre {
            spaces = self.pre - number.len();
        }
        if number.len() > self.pre {
            number = vec!['#'; self.pre];
            number.push('.');
            number.extend(std::iter::repeat_n('#', self.post));
        } else if !fraction.is_empty() {
            number.push('.');
            number.extend(fraction.chars());
        }
        let sign = if negative { '-' } else { '+' };
        if !negative && self.fill {
            self.brackets = false;
        }
        let signs = self.minus || self.plus;
        let mut wrote_sign = match signs {
            true => !self.plus || self.minus,
            false => !negative && self.fill && self.anchor == Anchor::None,
        };
        if !signs && self.anchor == Anchor::Before && self.pre == self.digits_before_sign {
            self.anchor = Anchor::Behind;
        }
        let mut count = (self.post + self.pre) as i64 - 1;
        let mut last = None;
        if self.fill
            && self.point
            && let Some(point) = number.iter().position(|c| *c == '.')
        {
            let relevant =
                (point..number.len()).rev().find(|at| *at == point || number[*at] != '0');
            let mut relevant = relevant.unwrap_or(point);
            if self.zero_end > spaces {
                relevant = relevant.max((number.len() - 1).min(self.zero_end - spaces));
            }
            last = Some(relevant);
        }
        if !wrote_sign && spaces == 0 {
            count += 1;
        }
        let at_point = |last: Option<usize>| last.is_some_and(|at| number.get(at) == Some(&'.'));
        let mut out = String::new();
        let (mut at, mut current, mut inside) = (0, 0_usize, false);
        for node in &self.nodes {
            let word = match node {
                NumberPatternNode::Character(c) => {
                    out.push(*c);
                    continue;
                }
                NumberPatternNode::Word(word) => *word,
            };
            match word {
                Word::Nine | Word::Zero | Word::Point => {}
                Word::Comma | Word::Group => {
                    match (inside, self.fill) {
                        (true, _) => out.push(','),
                        (false, true) => {}
                        (false, false) => out.push(' '),
                    }
                    continue;
                }
                Word::Currency => {
                    out.push(' ');
                    continue;
                }
                Word::Ordinal | Word::OrdinalLower => {
                    let hidden = number.first() == Some(&'#') || negative || self.point;
                    if !hidden {
                        let digits: String = number.iter().collect();
                        let suffix = super::to_char::ordinal(digits.parse().unwrap_or(0));
                        match word {
                            Word::Ordinal => out.push_str(&suffix.to_uppercase()),
                            _ => out.push_str(suffix),
                        }
                    }
                    continue;
                }
                Word::Minus | Word::Plus => {
                    let own = if word == Word::Minus { '-' } else { '+' };
                    match (sign == own, self.fill) {
                        (true, _) => out.push(own),
                        (false, true) => {}
                        (false, false) => out.push(' '),
                    }
                    continue;
                }
                Word::Sign => {
                    out.push(sign);
                    continue;
                }
                _ => continue,
            }
            inside = false;
            let no_zero = !self.zero && at == 0 && number.first() == Some(&'0') && self.post != 0;
            let begins = current >= spaces || (self.zero && self.zero_start == current);
            if !wrote_sign && begins && (!no_zero || at_point(last)) {
                if self.anchor != Anchor::None {
                    if self.anchor == Anchor::Before {
                        out.push(sign);
                        wrote_sign = true;
                    }
                } else if self.brackets {
                    out.push(if negative { '<' } else { ' ' });
                    wrote_sign = true;
                } else if !negative {
                    if !self.fill {
                        out.push(' ');
                    }
                    wrote_sign = true;
                } else {
                    out.push('-');
                    wrote_sign = true;
                }
            }
            if current < spaces && (self.zero_start > current || !self.zero) {
                if !self.fill {
                    out.push(' ');
                }
            } else if self.zero && current < spaces && self.zero_start <= current {
                out.push('0');
                inside = true;
            } else {
                match number.get(at) {
                    Some('.') => {
                        if !at_point(last) || self.fill {
                            out.push('.');
                        }
                    }
                    digit => {
                        if last.is_some_and(|last| at > last) && word != Word::Zero {
                        } else if no_zero {
                            if !self.fill {
                                out.push(' ');
                            } else if at_point(last) {
                                out.push('0');
                            }
                        } else {
                            // Where the digits end, so does the text.
                            let Some(digit) = digit else { return Ok(out) };
                            out.push(*digit);
                            inside = true;
                        }
                    }
                }
                if at < number.len() {
                    at += 1;
                }
            }
            let mut end = count + i64::from(spaces > 0) + i64::from(self.point);
            if last == Some(at) {
                end = current as i64;
            }
            if current as i64 + 1 == end {
                if wrote_sign && self.brackets {
                    out.push(if negative { '>' } else { ' ' });
                } else if self.anchor == Anchor::Behind {
                    out.push(sign);
                }
            }
            current += 1;
        }
        Ok(out)
    }
}

fn nodes(pattern: &str) -> Vec<NumberPatternNode> {
    let mut nodes = Vec::new();
    let mut rest = pattern;
    while !rest.is_empty() {
        // Roman numerals and ordinals tell by their case how they are written; other words are read in any.
        let fits = |(word, _): &&(&str, Word)| {
            rest.get(..word.len()).is_some_and(|text| {
                let by_case = ["RN", "rn", "TH", "th"].contains(word);
                text == *word || (!by_case && text.eq_ignore_ascii_case(word))
            })
        };
        if let Some((text, word)) = WORDS.iter().filter(fits).max_by_key(|(word, _)| word.len()) {
            nodes.push(NumberPatternNode::Word(*word));
            rest = &rest[text.len()..];
            continue;
        }
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut chars = quoted.char_indices();
            rest = "";
            while let Some((at, c)) = chars.next() {
                match c {
                    '"' => {
                        rest = &quoted[at + 1..];
                        break;
                    }
                    '\\' => {
                        nodes.extend(chars.next().map(|(_, c)| NumberPatternNode::Character(c)));
                    }
                    c => nodes.push(NumberPatternNode::Character(c)),
                }
            }
            continue;
        }
        rest = if rest.starts_with("\\\"") { &rest[1..] } else { rest };
        let Some(c) = rest.chars().next() else { break };
        nodes.push(NumberPatternNode::Character(c));
        rest = &rest[c.len_utf8()..];
    }
    nodes
}

/// With a space in the place of a plus, and an exponent of two digits at least.
fn with_exponent(mantissa: &str, exponent: i32) -> String {
    let space = if mantissa.starts_with('-') { "" } else { " " };
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{space}{mantissa}e{sign}{:02}", exponent.abs())
}

/// The number with an exponent. A NUMERIC's mantissa that is rounded up to ten stays so, as in PostgreSQL.
fn scientific(value: &BigInt, scale: u32, post: usize, kind: NumberType) -> String {
    let digits = value.magnitude().to_string();
    let negative = if value.sign() == num_bigint::Sign::Minus { "-" } else { "" };
    let zero = digits == "0";
    let mut exponent = if zero { 0 } else { digits.len() as i32 - 1 - scale as i32 };
    let wanted = post + 1;
    let mut kept = match digits.len() > wanted {
        true => {
            let by = BigInt::from(10).pow((digits.len() - wanted) as u32);
            rounded_quotient(&BigInt::from(value.magnitude().clone()), &by).to_string()
        }
        false => format!("{digits}{}", "0".repeat(wanted - digits.len())),
    };
    if kept.len() > wanted && kind == NumberType::Int {
        kept.truncate(wanted);
        exponent += 1;
    }
    let (whole, fraction) = kept.split_at(kept.len() - post);
    let point = if post > 0 { "." } else { "" };
    with_exponent(&format!("{negative}{whole}{point}{fraction}"), exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_filled_as_in_postgres() {
        let of = |value: i64, scale: u32, pattern: &str| {
            Pattern::new(pattern)
                .unwrap()
                .exact(&BigInt::from(value), scale, NumberType::Numeric)
                .unwrap()
        };
        for (value, scale, pattern, text) in [
            (12, 0, "999", "  12"),
            (-12, 0, "999", " -12"),
            (1234, 0, "999", " ###"),
            (125, 1, "FM999990.00", "12.50"),
            (1234567, 2, "9,999,999.99", "    12,345.67"),
            (-12, 0, "9999PR", "  <12>"),
            (12, 0, "S9999", "  +12"),
            (5, 1, "9.9", "  .5"),
            (5, 1, "FM9.9", ".5"),
            (1234, 0, "9.99EEEE", " 1.23e+03"),
        ] {
            assert_eq!(of(value, scale, pattern), text, "{value} {pattern}");
        }
        assert_eq!(
            Pattern::new("RN").unwrap().exact(&BigInt::from(14), 0, NumberType::Int).unwrap(),
            "            XIV"
        );
    }
}
