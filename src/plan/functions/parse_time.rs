//! `to_date(text, pattern)` and `to_timestamp(text, pattern)`: texts read by PostgreSQL's patterns, with its leniency:
//! a separator of the pattern stands for one of the text or for none, and spaces before fields are passed over.

use std::sync::Arc;

use datafusion_common::{Result, exec_err};
use datafusion_expr::ScalarUDF;

use super::calendar::{self, JULIAN_EPOCH, MICROS_PER_DAY, MICROS_PER_SECOND};
use super::row::{Overload, Type, Value, function, overload};
use super::to_char::{MONTHS, Prefix, ROMAN, WORDS, has_case};

use Type::{Date, Text};

const TO_DATE: &[Overload] = &[overload(&[Text, Text], Date, |row| {
    Ok(Value::Int(Fields::read(row.text(0), row.text(1))?.instant()?.div_euclid(MICROS_PER_DAY)))
})];

pub fn to_date() -> Arc<ScalarUDF> {
    function("to_date", &[], TO_DATE, None)
}

/// The instant that a text is by a pattern.
pub fn instant(text: &str, pattern: &str) -> Result<i64> {
    Fields::read(text, pattern)?.instant()
}

/// A part of a pattern.
enum TimePatternNode {
    Field {
        word: &'static str,
        fill: bool,
        ordinal: bool,
    },
    /// A space or a sign.
    Separator,
    Character(char),
}

fn nodes(pattern: &str) -> Vec<TimePatternNode> {
    let mut nodes = Vec::new();
    let mut rest = pattern;
    while !rest.is_empty() {
        let (prefix, behind) = Prefix::of(rest);
        let fill = prefix == Prefix::Fill;
        let fits = |word: &&&'static str| {
            behind.get(..word.len()).is_some_and(|text| {
                text == **word || (text.eq_ignore_ascii_case(word) && !has_case(word))
            })
        };
        if let Some(word) = WORDS.iter().filter(fits).max_by_key(|word| word.len()) {
            rest = &behind[word.len()..];
            let ordinal = rest.starts_with("TH") || rest.starts_with("th");
            rest = if ordinal { &rest[2..] } else { rest };
            nodes.push(TimePatternNode::Field { word, fill, ordinal });
            continue;
        }
        rest = behind;
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut chars = quoted.char_indices();
            rest = "";
            while let Some((at, c)) = chars.next() {
                match c {
                    '"' => {
                        rest = &quoted[at + 1..];
                        break;
                    }
                    '\\' => nodes.extend(chars.next().map(|(_, c)| TimePatternNode::Character(c))),
                    c => nodes.push(TimePatternNode::Character(c)),
                }
            }
            continue;
        }
        rest = if rest.starts_with("\\\"") { &rest[1..] } else { rest };
        let Some(c) = rest.chars().next() else { break };
        rest = &rest[c.len_utf8()..];
        nodes.push(match is_separator(c) || is_space(c) {
            true => TimePatternNode::Separator,
            false => TimePatternNode::Character(c),
        });
    }
    nodes
}

fn is_separator(c: char) -> bool {
    c.is_ascii_graphic() && !c.is_ascii_alphanumeric()
}

fn is_space(c: char) -> bool {
    c.is_ascii_whitespace() || c == '\u{b}'
}

/// Whether digits of a field may be followed by others that are not its own.
fn is_of_digits(word: &str) -> bool {
    let upper = word.to_ascii_uppercase();
    ![
        "AD", "BC", "A.D.", "B.C.", "AM", "PM", "A.M.", "P.M.", "DAY", "DY", "MONTH", "MON", "RM",
        "TZ", "FX", "OF", "TZH", "TZM",
    ]
    .contains(&upper.as_str())
}

/// The fields that were read from a text; 0 if a field was not.
#[derive(Default)]
struct Fields {
    hour: i64,
    twelve: bool,
    afternoon: i64,
    minute: i64,
    second: i64,
    of_day: i64,
    millis: i64,
    micros: i64,
    weekday: i64,
    day: i64,
    day_of_year: i64,
    month: i64,
    year: i64,
    year_digits: usize,
    century: i64,
    before_christ: i64,
    week: i64,
    week_of_month: i64,
    julian: i64,
}

struct Input<'a> {
    rest: &'a str,
}

impl Input<'_> {
    fn skip_spaces(&mut self) -> i64 {
        let trimmed = self.rest.trim_start_matches(is_space);
        let skipped = self.rest.len() - trimmed.len();
        self.rest = trimmed;
        skipped as i64
    }

    fn skip(&mut self) {
        let mut chars = self.rest.chars();
        chars.next();
        self.rest = chars.as_str();
    }

    /// A number: of up to `length` characters, or of all digits where nothing but digits is expected to follow it.
    /// Gives how many characters it takes, too.
    fn number(&mut self, length: usize, all: bool, word: &str) -> Result<(i64, usize)> {
        let before = self.rest.len();
        self.skip_spaces();
        let leading = |text: &str| -> usize {
            let sign = usize::from(text.starts_with(['-', '+']));
            let digits = text[sign..].bytes().take_while(u8::is_ascii_digit).count();
            if digits == 0 { 0 } else { sign + digits }
        };
        let used = match all {
            true => leading(self.rest),
            false => {
                if self.rest.len() < length {
                    return exec_err!("source string too short for \"{word}\" formatting field");
                }
                let part: String = self.rest.chars().take(length).collect();
                // Spaces may stand before the digits inside of the field.
                let spaces = part.len() - part.trim_start_matches(is_space).len();
                let digits = leading(&part[spaces..]);
                let used = if digits == 0 { 0 } else { spaces + digits };
                if used > 0 && used < length {
                    return exec_err!("invalid value \"{part}\" for \"{word}\"");
                }
                used
            }
        };
        if used == 0 {
            return exec_err!("invalid value \"{}\" for \"{word}\"", self.rest);
        }
        let number = self.rest[..used].trim().parse::<i64>();
        self.rest = &self.rest[used..];
        match number {
            Ok(number) if i32::try_from(number).is_ok() => Ok((number, before - self.rest.len())),
            _ => exec_err!("value for \"{word}\" in source string is out of range"),
        }
    }

    /// Index of the word that the text begins with.
    fn word<'w>(&mut self, words: impl Iterator<Item = &'w str>, of: &str) -> Result<i64> {
        for (n, word) in words.enumerate() {
            let begins = |text: &str| text.eq_ignore_ascii_case(word);
            if self.rest.get(..word.len()).is_some_and(begins) {
                self.rest = &self.rest[word.len()..];
                return Ok(n as i64);
            }
        }
        exec_err!("invalid value \"{}\" for \"{of}\"", self.rest)
    }
}

fn set(field: &mut i64, value: i64, word: &str) -> Result<()> {
    if *field != 0 && *field != value {
        return exec_err!("conflicting values for \"{word}\" field in formatting string");
    }
    *field = value;
    Ok(())
}

/// A year of fewer than four digits, near 2020.
fn near_2020(year: i64) -> i64 {
    match year {
        ..70 => year + 2000,
        70..100 => year + 1900,
        100..520 => year + 2000,
        520..1000 => year + 1000,
        year => year,
    }
}

impl Fields {
    fn read(text: &str, pattern: &str) -> Result<Fields> {
        let mut fields = Fields::default();
        let mut input = Input { rest: text };
        let nodes = nodes(pattern);
        // Characters that were passed over beyond what the pattern says.
        let mut extra = 0_i64;
        for (at, node) in nodes.iter().enumerate() {
            if input.rest.is_empty() {
                break;
            }
            if at == 0 || matches!(node, TimePatternNode::Field { .. }) {
                extra += input.skip_spaces();
            }
            match node {
                TimePatternNode::Separator => {
                    extra -= 1;
                    if input.rest.starts_with(|c| is_space(c) || is_separator(c)) {
                        input.skip();
                        extra += 1;
                    }
                }
                TimePatternNode::Character(_) if extra > 0 => extra -= 1,
                TimePatternNode::Character(_) => input.skip(),
                TimePatternNode::Field { word, fill, ordinal } => {
                    let next = match nodes.get(at + 1) {
                        None => true,
                        Some(TimePatternNode::Field { word, .. }) => !is_of_digits(word),
                        Some(TimePatternNode::Character(c)) => !c.is_ascii_digit(),
                        Some(TimePatternNode::Separator) => true,
                    };
                    fields.field(&mut input, word, *fill || *ordinal || next)?;
                    if *ordinal {
                        input.skip();
                        input.skip();
                    }
                    extra = input.skip_spaces();
                }
            }
        }
        Ok(fields)
    }

    /// `all`: no other digits follow.
    fn field(&mut self, input: &mut Input<'_>, word: &str, all: bool) -> Result<()> {
        let upper = word.to_ascii_uppercase();
        let length = upper.len();
        match upper.as_str() {
            "A.M." | "P.M." | "AM" | "PM" => {
                let words = if length == 4 { ["A.M.", "P.M."] } else { ["AM", "PM"] };
                let value = input.word(words.into_iter(), word)?;
                set(&mut self.afternoon, value, word)?;
                self.twelve = true;
            }
            "A.D." | "B.C." | "AD" | "BC" => {
                let words = if length == 4 { ["A.D.", "B.C."] } else { ["AD", "BC"] };
                let value = input.word(words.into_iter(), word)?;
                set(&mut self.before_christ, value, word)?;
            }
            "MONTH" => {
                let value = input.word(MONTHS.iter().copied(), word)? + 1;
                set(&mut self.month, value, word)?;
            }
            "MON" => {
                let value = input.word(MONTHS.iter().map(|name| &name[..3]), word)? + 1;
                set(&mut self.month, value, word)?;
            }
            "RM" => {
                // The longer ones first, since they begin with the shorter ones.
                let mut order: Vec<usize> = (0..ROMAN.len()).collect();
                order.sort_by_key(|n| std::cmp::Reverse(ROMAN[*n].len()));
                let value = input.word(order.iter().map(|n| ROMAN[*n]), word)? as usize;
                set(&mut self.month, order[value] as i64 + 1, word)?;
            }
            "DAY" => {
                let value = input.word(super::to_char::DAYS.iter().copied(), word)? + 1;
                set(&mut self.weekday, value, word)?;
            }
            "DY" => {
                let names = super::to_char::DAYS.iter().map(|name| &name[..3]);
                let value = input.word(names, word)? + 1;
                set(&mut self.weekday, value, word)?;
            }
            "HH" | "HH12" => {
                let (value, _) = input.number(2, all, word)?;
                set(&mut self.hour, value, word)?;
                self.twelve = true;
            }
            "HH24" => set(&mut self.hour, input.number(2, all, word)?.0, word)?,
            "MI" => set(&mut self.minute, input.number(2, all, word)?.0, word)?,
            "SS" => set(&mut self.second, input.number(2, all, word)?.0, word)?,
            "SSSS" | "SSSSS" => set(&mut self.of_day, input.number(length, all, word)?.0, word)?,
            "MS" | "FF3" => {
                let (value, used) = input.number(3, all, word)?;
                set(&mut self.millis, value, word)?;
                self.millis *= [1, 100, 10].get(used).copied().unwrap_or(1);
            }
            "US" | "FF6" => {
                let (value, used) = input.number(6, all, word)?;
                set(&mut self.micros, value, word)?;
                self.micros *= 10_i64.pow(6_usize.saturating_sub(used) as u32);
            }
            "DDD" => set(&mut self.day_of_year, input.number(3, all, word)?.0, word)?,
            "DD" => set(&mut self.day, input.number(2, all, word)?.0, word)?,
            "D" => set(&mut self.weekday, input.number(1, all, word)?.0, word)?,
            "MM" => set(&mut self.month, input.number(2, all, word)?.0, word)?,
            "WW" => set(&mut self.week, input.number(2, all, word)?.0, word)?,
            "W" => set(&mut self.week_of_month, input.number(1, all, word)?.0, word)?,
            "Q" => drop(input.number(1, all, word)?),
            "CC" => set(&mut self.century, input.number(2, all, word)?.0, word)?,
            "J" => set(&mut self.julian, input.number(1, all, word)?.0, word)?,
            "YYYY" => {
                set(&mut self.year, input.number(4, all, word)?.0, word)?;
                self.year_digits = 4;
            }
            "YYY" | "YY" | "Y" => {
                let (value, used) = input.number(length, all, word)?;
                set(&mut self.year, value, word)?;
                if used < 4 {
                    self.year = near_2020(self.year);
                }
                self.year_digits = length;
            }
            _ => return exec_err!("\"{word}\" is not supported in a pattern to read by"),
        }
        Ok(())
    }

    /// Microseconds since the epoch.
    fn instant(mut self) -> Result<i64> {
        let out_of_range = || exec_err!("date/time field value out of range");
        let (mut hour, mut minute, mut second) = (0, 0, 0);
        if self.of_day != 0 {
            (hour, minute, second) = (self.of_day / 3600, self.of_day / 60 % 60, self.of_day % 60);
        }
        second = if self.second != 0 { self.second } else { second };
        minute = if self.minute != 0 { self.minute } else { minute };
        hour = if self.hour != 0 { self.hour } else { hour };
        if self.twelve {
            if !(1..=12).contains(&hour) {
                return exec_err!("hour \"{hour}\" is invalid for the 12-hour clock");
            }
            if self.afternoon != 0 && hour < 12 {
                hour += 12;
            } else if self.afternoon == 0 && hour == 12 {
                hour = 0;
            }
        }
        let (mut year, mut month, mut day) = (0, 1, 1);
        let (mut has_year, mut has_month, mut has_day) = (false, false, false);
        if self.year != 0 && (self.century == 0 || self.year_digits > 2) {
            year = if self.before_christ != 0 { -self.year } else { self.year };
            year += i64::from(year < 0);
            has_year = true;
        } else if self.century != 0 {
            return exec_err!("a century is not supported in a pattern to read by");
        }
        if self.julian != 0 {
            (year, month, day) = calendar::civil(self.julian - JULIAN_EPOCH);
            (has_year, has_month, has_day) = (true, true, true);
        }
        if self.week != 0 {
            self.day_of_year = (self.week - 1) * 7 + 1;
        }
        if self.week_of_month != 0 {
            self.day = (self.week_of_month - 1) * 7 + 1;
        }
        if self.day != 0 {
            (day, has_day) = (self.day, true);
        }
        if self.month != 0 {
            (month, has_month) = (self.month, true);
        }
        if self.day_of_year != 0 && (month <= 1 || day <= 1) {
            if year == 0 && self.before_christ == 0 {
                return exec_err!("cannot calculate day of year without year information");
            }
            let mut left = self.day_of_year;
            let mut of_month = 1;
            while of_month < 12 && left > calendar::days_of_month(year, of_month) {
                left -= calendar::days_of_month(year, of_month);
                of_month += 1;
            }
            month = if month <= 1 { of_month } else { month };
            day = if day <= 1 { left } else { day };
            (has_month, has_day) = (true, true);
        }
        let wrong_day = has_day && !(1..=31).contains(&day);
        let wrong_month = has_month && !(1..=12).contains(&month);
        if wrong_day || wrong_month {
            return out_of_range();
        }
        if has_year && has_month && has_day && day > calendar::days_of_month(year, month) {
            return out_of_range();
        }
        let micros = self.millis * 1000 + self.micros;
        let valid = (0..24).contains(&hour)
            && (0..60).contains(&minute)
            && (0..60).contains(&second)
            && (0..MICROS_PER_SECOND).contains(&micros);
        if !valid {
            return out_of_range();
        }
        let time = (hour * 3600 + minute * 60 + second) * MICROS_PER_SECOND + micros;
        let days = calendar::days(year, month, day);
        match days.checked_mul(MICROS_PER_DAY).and_then(|day| day.checked_add(time)) {
            Some(instant) => Ok(instant),
            None => out_of_range(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_by_patterns() {
        let of = |text: &str, pattern: &str| {
            instant(text, pattern).map(|micros| super::super::written::timestamp(micros, false))
        };
        for (text, pattern, read) in [
            ("2024-02-29 12:34:56", "YYYY-MM-DD HH24:MI:SS", "2024-02-29 12:34:56"),
            ("20240229", "YYYYMMDD", "2024-02-29 00:00:00"),
            ("Feb 29 2024", "Mon DD YYYY", "2024-02-29 00:00:00"),
            ("12:34:56 PM", "HH12:MI:SS AM", "0001-01-01 12:34:56 BC"),
            ("99-12-31", "YY-MM-DD", "1999-12-31 00:00:00"),
            ("2024-60", "YYYY-DDD", "2024-02-29 00:00:00"),
        ] {
            assert_eq!(of(text, pattern).unwrap(), read, "{text} {pattern}");
        }
        assert!(of("2023-02-30", "YYYY-MM-DD").is_err());
        assert!(of("abc", "YYYY").is_err());
    }
}
