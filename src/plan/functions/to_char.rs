//! `to_char` of times, with PostgreSQL's patterns.

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

/// What a pattern is made of, longest first where one begins another.
pub const WORDS: [&str; 77] = [
    "A.D.", "A.M.", "AD", "AM", "B.C.", "BC", "CC", "DAY", "DDD", "DD", "DY", "Day", "Dy", "D",
    "FF1", "FF2", "FF3", "FF4", "FF5", "FF6", "FX", "HH24", "HH12", "HH", "IDDD", "ID", "IW",
    "IYYY", "IYY", "IY", "I", "J", "MI", "MM", "MONTH", "MON", "MS", "Month", "Mon", "OF", "P.M.",
    "PM", "Q", "RM", "SSSSS", "SSSS", "SS", "TZH", "TZM", "TZ", "US", "WW", "W", "Y,YYY", "YYYY",
    "YYY", "YY", "Y", "a.d.", "a.m.", "ad", "am", "b.c.", "bc", "day", "dy", "month", "mon",
    "p.m.", "pm", "rm", "tz", "TH", "th", "FM", "fm", "SP",
];

fn written(micros: i64, pattern: &str, zoned: bool) -> Result<Value> {
    let time = Time::of(micros);
    let mut out = String::new();
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
                        out.push(c);
                        escaped = false;
                    }
                }
            }
            rest = quoted.get(end + 1..).unwrap_or_default();
            continue;
        }
        if let Some(quote) = rest.strip_prefix("\\\"") {
            out.push('"');
            rest = quote;
            continue;
        }
        let (filled, behind) = match rest.strip_prefix("FM").or_else(|| rest.strip_prefix("fm")) {
            Some(behind) => (false, behind),
            None => (true, rest),
        };
        // Most words are read in any case; those of names and halves of a day tell by theirs how they are written.
        let fits = |word: &&&str| {
            behind.get(..word.len()).is_some_and(|text| {
                text == **word || (text.eq_ignore_ascii_case(word) && !has_case(word))
            })
        };
        let Some(word) = WORDS.iter().filter(fits).max_by_key(|word| word.len()) else {
            let Some(c) = rest.chars().next() else { break };
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        rest = &behind[word.len()..];
        let text = match time.part(word, filled, zoned) {
            Some(text) => text,
            None => return exec_err!("to_char does not know {word} here"),
        };
        out.push_str(&text);
        if let Some(suffix @ ("TH" | "th")) = rest.get(..2) {
            let number = text.trim().parse::<i64>().unwrap_or(0);
            let ordinal = ordinal(number);
            match suffix {
                "TH" => out.push_str(&ordinal.to_uppercase()),
                _ => out.push_str(ordinal),
            }
            rest = &rest[2..];
        }
    }
    Ok(Value::Text(out))
}

pub fn has_case(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    let names = [
        "day", "dy", "month", "mon", "rm", "am", "pm", "a.m.", "p.m.", "ad", "bc", "a.d.", "b.c.",
        "tz",
    ];
    names.contains(&word.as_str())
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

    /// The text of a word of a pattern; `filled` with zeros and spaces to its full width.
    fn part(&self, word: &str, filled: bool, zoned: bool) -> Option<String> {
        let number = |value: i64, width: usize| match filled {
            true => format!("{value:0width$}"),
            false => value.to_string(),
        };
        let name = |name: String| if filled { format!("{name:NAME_WIDTH$}") } else { name };
        let month = MONTHS[(self.month - 1) as usize];
        let weekday = calendar::weekday(self.days);
        let day = DAYS[weekday as usize];
        let hour = self.time / MICROS_PER_HOUR;
        let hour12 = (hour + 11) % 12 + 1;
        let micros = self.time % MICROS_PER_SECOND;
        let written_year = calendar::year_of_era(self.year);
        let (iso_year, iso_week) = calendar::iso_week(self.days);
        let iso_year = calendar::year_of_era(iso_year);
        let half = if hour >= 12 { "PM" } else { "AM" };
        let era = if self.year <= 0 { "BC" } else { "AD" };
        let dotted = |text: &str| text.chars().map(|c| format!("{c}.")).collect::<String>();
        Some(match word {
            "HH24" => number(hour, 2),
            "HH12" | "HH" => number(hour12, 2),
            "MI" => number(self.time / MICROS_PER_MINUTE % 60, 2),
            "SS" => number(self.time / MICROS_PER_SECOND % 60, 2),
            "SSSS" | "SSSSS" => (self.time / MICROS_PER_SECOND).to_string(),
            "MS" | "FF3" => format!("{:03}", micros / 1000),
            "US" | "FF6" => format!("{micros:06}"),
            "FF1" => (micros / 100_000).to_string(),
            "FF2" => format!("{:02}", micros / 10_000),
            "FF4" => format!("{:04}", micros / 100),
            "FF5" => format!("{:05}", micros / 10),
            "YYYY" => number(written_year, 4),
            "YYY" => number(written_year % 1000, 3),
            "YY" => number(written_year % 100, 2),
            "Y" => (written_year % 10).to_string(),
            "Y,YYY" => format!("{},{:03}", written_year / 1000, written_year % 1000),
            "IYYY" => number(iso_year, 4),
            "IYY" => number(iso_year % 1000, 3),
            "IY" => number(iso_year % 100, 2),
            "I" => (iso_year % 10).to_string(),
            "MM" => number(self.month, 2),
            "MONTH" => name(month.to_uppercase()),
            "Month" => name(month.to_string()),
            "month" => name(month.to_lowercase()),
            "MON" => month[..3].to_uppercase(),
            "Mon" => month[..3].to_string(),
            "mon" => month[..3].to_lowercase(),
            "DAY" => name(day.to_uppercase()),
            "Day" => name(day.to_string()),
            "day" => name(day.to_lowercase()),
            "DY" => day[..3].to_uppercase(),
            "Dy" => day[..3].to_string(),
            "dy" => day[..3].to_lowercase(),
            "DDD" => number(calendar::day_of_year(self.days), 3),
            "DD" => number(self.day, 2),
            "D" => (weekday + 1).to_string(),
            "ID" => ((weekday + 6) % 7 + 1).to_string(),
            "IDDD" => number((iso_week - 1) * 7 + (weekday + 6) % 7 + 1, 3),
            "IW" => number(iso_week, 2),
            "WW" => number((calendar::day_of_year(self.days) - 1) / 7 + 1, 2),
            "W" => ((self.day - 1) / 7 + 1).to_string(),
            "CC" => number((written_year + 99) / 100, 2),
            "Q" => ((self.month - 1) / 3 + 1).to_string(),
            "J" => (self.days + JULIAN_EPOCH).to_string(),
            "RM" | "rm" => {
                let roman = ROMAN[(self.month - 1) as usize];
                let roman = if word == "rm" { roman.to_lowercase() } else { roman.to_string() };
                if filled { format!("{roman:4}") } else { roman }
            }
            "AM" | "PM" => half.to_string(),
            "am" | "pm" => half.to_lowercase(),
            "A.M." | "P.M." => dotted(half),
            "a.m." | "p.m." => dotted(&half.to_lowercase()),
            "AD" | "BC" => era.to_string(),
            "ad" | "bc" => era.to_lowercase(),
            "A.D." | "B.C." => dotted(era),
            "a.d." | "b.c." => dotted(&era.to_lowercase()),
            "TZ" if zoned => "UTC".to_string(),
            "tz" if zoned => "utc".to_string(),
            "TZ" | "tz" => String::new(),
            "OF" => "+00".to_string(),
            "TZH" => "+00".to_string(),
            "TZM" => "00".to_string(),
            "FX" => String::new(),
            _ => return None,
        })
    }
}
