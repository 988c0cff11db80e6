//! `to_char` of times, with PostgreSQL's patterns.

use std::cell::RefCell;
use std::fmt::Write;
use std::sync::Arc;

use datafusion_common::{Result, exec_err};
use datafusion_expr::ScalarUDF;

use super::calendar::{
    self, JULIAN_EPOCH, MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_MINUTE, MICROS_PER_SECOND,
};
use super::row::{Overload, Type, Value, function, overload};
use super::to_char_number;

use Type::{Text, Timestamp, TimestampTz};

const OVERLOADS: &[Overload] = &[
    overload(&[Timestamp, Text], Text, |row| written(row.int(0), row.text(1), false)),
    overload(&[TimestampTz, Text], Text, |row| written(row.int(0), row.text(1), true)),
];

pub fn to_char() -> Arc<ScalarUDF> {
    to_char_number::beside(function("to_char", &[], OVERLOADS, None))
}

pub const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
pub const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
pub const ROMAN: [&str; 12] =
    ["I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII"];

/// The width that a full name is filled to.
const NAME_WIDTH: usize = 9;

/// The words of patterns, longest first where one begins another.
pub const WORDS: [&str; 72] = [
    "A.D.", "A.M.", "AD", "AM", "B.C.", "BC", "CC", "DAY", "DDD", "DD", "DY", "Day", "Dy", "D",
    "FF1", "FF2", "FF3", "FF4", "FF5", "FF6", "FX", "HH24", "HH12", "HH", "IDDD", "ID", "IW",
    "IYYY", "IYY", "IY", "I", "J", "MI", "MM", "MONTH", "MON", "MS", "Month", "Mon", "OF", "P.M.",
    "PM", "Q", "RM", "SSSSS", "SSSS", "SS", "TZH", "TZM", "TZ", "US", "WW", "W", "Y,YYY", "YYYY",
    "YYY", "YY", "Y", "a.d.", "a.m.", "ad", "am", "b.c.", "bc", "day", "dy", "month", "mon",
    "p.m.", "pm", "rm", "tz",
];

/// A part of a pattern.
enum Piece {
    /// Written as it is.
    Text(String),
    /// A word of the pattern.
    Word {
        word: &'static str,
        /// To its full width, with zeros and spaces.
        filled: bool,
        /// `TH` or `th` follows.
        ordinal: Option<&'static str>,
    },
}

/// A pattern, taken apart, and what it last wrote.
struct LastPattern {
    pattern: String,
    zoned: bool,
    pieces: Vec<Piece>,
    /// Number of microseconds within which all times are written the same.
    unit: i64,
    text: Option<(i64, String)>,
}

impl Piece {
    /// Number of microseconds within which all times are written the same.
    fn unit(&self) -> i64 {
        let Piece::Word { word, .. } = self else { return MICROS_PER_DAY };
        match *word {
            "MS" | "US" | "FF1" | "FF2" | "FF3" | "FF4" | "FF5" | "FF6" => 1,
            "SS" | "SSSS" | "SSSSS" => MICROS_PER_SECOND,
            "MI" => MICROS_PER_MINUTE,
            "HH24" | "HH12" | "HH" => MICROS_PER_HOUR,
            "AM" | "PM" | "A.M." | "P.M." | "am" | "pm" | "a.m." | "p.m." => MICROS_PER_HOUR,
            // Words for parts of a date.
            _ => MICROS_PER_DAY,
        }
    }
}

thread_local! {
    /// The last pattern: as a rule it is the same for all rows, and so is mostly what it writes of times
    /// that are beside each other.
    static LAST: RefCell<LastPattern> = RefCell::new(LastPattern::new("", false));
}

impl LastPattern {
    fn new(pattern: &str, zoned: bool) -> Self {
        let pieces = pieces_of(pattern);
        let unit = pieces.iter().map(Piece::unit).min().unwrap_or(MICROS_PER_DAY);
        LastPattern { pattern: pattern.to_string(), zoned, pieces, unit, text: None }
    }
}

fn written(micros: i64, pattern: &str, zoned: bool) -> Result<Value> {
    LAST.with_borrow_mut(|last| {
        if last.pattern != pattern || last.zoned != zoned {
            *last = LastPattern::new(pattern, zoned);
        }
        let moment = micros.div_euclid(last.unit);
        if let Some((known, text)) = &last.text
            && *known == moment
        {
            return Ok(Value::Text(text.clone()));
        }
        let text = text_of(micros, &last.pieces, zoned)?;
        last.text = Some((moment, text.clone()));
        Ok(Value::Text(text))
    })
}

fn text_of(micros: i64, pieces: &[Piece], zoned: bool) -> Result<String> {
    let time = Time::of(micros);
    let mut out = String::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Word { word, filled, ordinal: suffix } => {
                let begin = out.len();
                if time.part(word, *filled, zoned, &mut out).is_none() {
                    return exec_err!("to_char does not know {word} here");
                }
                if let Some(suffix) = suffix {
                    let number = out[begin..].trim().parse::<i64>().unwrap_or(0);
                    match *suffix {
                        "TH" => out.push_str(&ordinal(number).to_uppercase()),
                        _ => out.push_str(ordinal(number)),
                    }
                }
            }
        }
    }
    Ok(out)
}

/// Takes a pattern apart.
fn pieces_of(pattern: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut rest = pattern;
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut end = quoted.len();
            let mut escaped = false;
            for (at, c) in quoted.char_indices() {
                match c {
                    '\\' if !escaped => escaped = true,
                    '"' if !escaped => {
                        end = at;
                        break;
                    }
                    c => {
                        text.push(c);
                        escaped = false;
                    }
                }
            }
            rest = quoted.get(end + 1..).unwrap_or_default();
            continue;
        }
        if let Some(quote) = rest.strip_prefix("\\\"") {
            text.push('"');
            rest = quote;
            continue;
        }
        let (prefix, behind) = Prefix::of(rest);
        // Most words are read in any case; those of names and halves of a day tell by theirs how they are written.
        let fits = |word: &&&str| {
            behind.get(..word.len()).is_some_and(|text| {
                text == **word || (text.eq_ignore_ascii_case(word) && !has_case(word))
            })
        };
        let Some(word) = WORDS.iter().filter(fits).max_by_key(|word| word.len()) else {
            // A prefix that nothing follows is left out, and what follows is read as it is.
            if prefix != Prefix::None {
                rest = behind;
                continue;
            }
            let Some(c) = rest.chars().next() else { break };
            text.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        rest = &behind[word.len()..];
        let suffix = ["TH", "th", "SP"].into_iter().find(|suffix| rest.starts_with(suffix));
        rest = &rest[suffix.map_or(0, str::len)..];
        // Names have no ordinals, and nothing is spelled out.
        let ordinal = suffix.filter(|suffix| *suffix != "SP" && !has_case(word));
        let filled = match prefix {
            Prefix::None => true,
            Prefix::Fill => false,
            Prefix::Translate => !is_name(word),
        };
        pieces.extend((!text.is_empty()).then(|| Piece::Text(std::mem::take(&mut text))));
        pieces.push(Piece::Word { word, filled, ordinal });
    }
    pieces.extend((!text.is_empty()).then_some(Piece::Text(text)));
    pieces
}

/// The beginning of a part of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefix {
    None,
    /// `FM`: without zeros and spaces.
    Fill,
    /// `TM`: names in the session's language, which is English, and without spaces.
    Translate,
}

impl Prefix {
    /// The prefix of a pattern, and what is behind it.
    pub fn of(pattern: &str) -> (Prefix, &str) {
        let known = [
            ("FM", Prefix::Fill),
            ("fm", Prefix::Fill),
            ("TM", Prefix::Translate),
            ("tm", Prefix::Translate),
        ];
        let found =
            known.iter().find_map(|(text, prefix)| Some((*prefix, pattern.strip_prefix(text)?)));
        found.unwrap_or((Prefix::None, pattern))
    }
}

/// Whether it is a full name of a day or a month.
fn is_name(word: &str) -> bool {
    ["day", "month"].iter().any(|name| name.eq_ignore_ascii_case(word))
}

pub fn has_case(word: &str) -> bool {
    let names = [
        "day", "dy", "month", "mon", "rm", "am", "pm", "a.m.", "p.m.", "ad", "bc", "a.d.", "b.c.",
        "tz",
    ];
    names.iter().any(|name| name.eq_ignore_ascii_case(word))
}

pub fn ordinal(number: i64) -> &'static str {
    match (number / 10 % 10, number % 10) {
        (1, _) => "th",
        (_, 1) => "st",
        (_, 2) => "nd",
        (_, 3) => "rd",
        _ => "th",
    }
}

struct Time {
    days: i64,
    /// Microseconds since midnight.
    time: i64,
    year: i64,
    month: i64,
    day: i64,
}

impl Time {
    fn of(micros: i64) -> Self {
        let days = micros.div_euclid(MICROS_PER_DAY);
        let (year, month, day) = calendar::civil(days);
        Time { days, time: micros.rem_euclid(MICROS_PER_DAY), year, month, day }
    }

    /// Writes the text of a word of a pattern; `filled` with zeros and spaces to its full width. `None`
    /// for a word that is not one of times.
    fn part(&self, word: &str, filled: bool, zoned: bool, out: &mut String) -> Option<()> {
        let number = |out: &mut String, value: i64, width: usize| match filled {
            true => write!(out, "{value:0width$}"),
            false => write!(out, "{value}"),
        };
        let name = |out: &mut String, name: &str| match filled {
            true => write!(out, "{name:NAME_WIDTH$}"),
            false => out.write_str(name),
        };
        let month = MONTHS[(self.month - 1) as usize];
        let weekday = calendar::weekday(self.days);
        let day = DAYS[weekday as usize];
        let hour = self.time / MICROS_PER_HOUR;
        let hour12 = (hour + 11) % 12 + 1;
        let micros = self.time % MICROS_PER_SECOND;
        let written_year = calendar::year_of_era(self.year);
        let iso_year = || calendar::year_of_era(calendar::iso_week(self.days).0);
        let iso_week = || calendar::iso_week(self.days).1;
        let half = if hour >= 12 { "PM" } else { "AM" };
        let era = if self.year <= 0 { "BC" } else { "AD" };
        let dotted = |text: &str| text.chars().map(|c| format!("{c}.")).collect::<String>();
        let done = match word {
            "HH24" => number(out, hour, 2),
            "HH12" | "HH" => number(out, hour12, 2),
            "MI" => number(out, self.time / MICROS_PER_MINUTE % 60, 2),
            "SS" => number(out, self.time / MICROS_PER_SECOND % 60, 2),
            "SSSS" | "SSSSS" => write!(out, "{}", self.time / MICROS_PER_SECOND),
            "MS" | "FF3" => write!(out, "{:03}", micros / 1000),
            "US" | "FF6" => write!(out, "{micros:06}"),
            "FF1" => write!(out, "{}", micros / 100_000),
            "FF2" => write!(out, "{:02}", micros / 10_000),
            "FF4" => write!(out, "{:04}", micros / 100),
            "FF5" => write!(out, "{:05}", micros / 10),
            "YYYY" => number(out, written_year, 4),
            "YYY" => number(out, written_year % 1000, 3),
            "YY" => number(out, written_year % 100, 2),
            "Y" => write!(out, "{}", written_year % 10),
            "Y,YYY" => write!(out, "{},{:03}", written_year / 1000, written_year % 1000),
            "IYYY" => number(out, iso_year(), 4),
            "IYY" => number(out, iso_year() % 1000, 3),
            "IY" => number(out, iso_year() % 100, 2),
            "I" => write!(out, "{}", iso_year() % 10),
            "MM" => number(out, self.month, 2),
            "MONTH" => name(out, &month.to_uppercase()),
            "Month" => name(out, month),
            "month" => name(out, &month.to_lowercase()),
            "MON" => out.write_str(&month[..3].to_uppercase()),
            "Mon" => out.write_str(&month[..3]),
            "mon" => out.write_str(&month[..3].to_lowercase()),
            "DAY" => name(out, &day.to_uppercase()),
            "Day" => name(out, day),
            "day" => name(out, &day.to_lowercase()),
            "DY" => out.write_str(&day[..3].to_uppercase()),
            "Dy" => out.write_str(&day[..3]),
            "dy" => out.write_str(&day[..3].to_lowercase()),
            "DDD" => number(out, calendar::day_of_year(self.days), 3),
            "DD" => number(out, self.day, 2),
            "D" => write!(out, "{}", weekday + 1),
            "ID" => write!(out, "{}", (weekday + 6) % 7 + 1),
            "IDDD" => number(out, (iso_week() - 1) * 7 + (weekday + 6) % 7 + 1, 3),
            "IW" => number(out, iso_week(), 2),
            "WW" => number(out, (calendar::day_of_year(self.days) - 1) / 7 + 1, 2),
            "W" => write!(out, "{}", (self.day - 1) / 7 + 1),
            "CC" => number(out, (written_year + 99) / 100, 2),
            "Q" => write!(out, "{}", (self.month - 1) / 3 + 1),
            "J" => write!(out, "{}", self.days + JULIAN_EPOCH),
            "RM" | "rm" => {
                let roman = ROMAN[(self.month - 1) as usize];
                let roman = if word == "rm" { roman.to_lowercase() } else { roman.to_string() };
                if filled { write!(out, "{roman:4}") } else { out.write_str(&roman) }
            }
            "AM" | "PM" => out.write_str(half),
            "am" | "pm" => out.write_str(&half.to_lowercase()),
            "A.M." | "P.M." => out.write_str(&dotted(half)),
            "a.m." | "p.m." => out.write_str(&dotted(&half.to_lowercase())),
            "AD" | "BC" => out.write_str(era),
            "ad" | "bc" => out.write_str(&era.to_lowercase()),
            "A.D." | "B.C." => out.write_str(&dotted(era)),
            "a.d." | "b.c." => out.write_str(&dotted(&era.to_lowercase())),
            "TZ" if zoned => out.write_str("UTC"),
            "tz" if zoned => out.write_str("utc"),
            "TZ" | "tz" | "FX" => Ok(()),
            "OF" | "TZH" => out.write_str("+00"),
            "TZM" => out.write_str("00"),
            _ => return None,
        };
        // Writing to memory cannot fail.
        done.ok()
    }
}
