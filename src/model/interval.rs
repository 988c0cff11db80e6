//! Intervals and times of day as text: read in PostgreSQL's words, as SQL has them and as ISO 8601 has them; written as ISO 8601
//! has them.

use std::fmt::Write;

use arrow::datatypes::IntervalMonthDayNano;

/// Microseconds.
pub const MICROS_PER_SECOND: i64 = 1_000_000;
/// Microseconds.
pub const MICROS_PER_MINUTE: i64 = 60 * MICROS_PER_SECOND;
/// Microseconds.
pub const MICROS_PER_HOUR: i64 = 60 * MICROS_PER_MINUTE;
/// Microseconds of a day without a change of clocks.
pub const MICROS_PER_DAY: i64 = 24 * MICROS_PER_HOUR;

/// Whether PostgreSQL takes a character for space.
pub fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\u{b}' | '\u{c}')
}

/// Microseconds of seconds with a fraction, which is rounded.
pub fn seconds_of(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction: f64 = format!("0.{fraction}0").parse().ok()?;
    Some(whole * MICROS_PER_SECOND + (fraction * 1e6).round_ties_even() as i64)
}

/// Microseconds since midnight of `h:mm[:ss[.fff]]`.
pub fn clock(text: &str) -> Option<i64> {
    let mut fields = text.split(':');
    let hour: i64 = fields.next()?.parse().ok()?;
    let minute: i64 = fields.next()?.parse().ok()?;
    let seconds = fields.next().unwrap_or("0");
    if fields.next().is_some() {
        return None;
    }
    let second = seconds_of(seconds)?;
    let time = hour * MICROS_PER_HOUR + minute * MICROS_PER_MINUTE + second;
    // A leap second is the next minute's first, and 24:00 the end of the day.
    let valid = hour <= 24 && minute < 60 && second <= MICROS_PER_MINUTE;
    (valid && time <= MICROS_PER_DAY).then_some(time)
}

/// Appends a time of day, in microseconds since midnight, as PostgreSQL writes it: `04:05:06.7`.
pub fn push_clock(text: &mut String, micros: i64) {
    let seconds = micros / MICROS_PER_SECOND;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let _ = write!(text, "{hours:02}:{minutes:02}:{:02}", seconds % 60);
    push_fraction(text, micros % MICROS_PER_SECOND);
}

/// Appends the microseconds of a second, the point included, as far as there are some.
fn push_fraction(text: &mut String, micros: i64) {
    if micros != 0 {
        text.push_str(format!(".{micros:06}").trim_end_matches('0'));
    }
}

/// A time of day by itself.
pub fn clock_text(micros: i64) -> String {
    let mut text = String::new();
    push_clock(&mut text, micros);
    text
}

/// The sums of an interval's units while its text is read.
#[derive(Default)]
struct Span {
    months: i64,
    days: i64,
    micros: f64,
    whole_micros: i64,
}

impl Span {
    /// Adds so many of a unit; what is left of a month counts as days, of a day as time.
    fn add(&mut self, whole: i64, fraction: f64, unit: &str) -> Option<()> {
        let months = |per: i64| Some((whole.checked_mul(per)?, fraction * per as f64));
        let (months, days) = match unit {
            "millennium" => (months(12_000)?, None),
            "century" => (months(1_200)?, None),
            "decade" => (months(120)?, None),
            "year" => (months(12)?, None),
            "month" => {
                self.months = self.months.checked_add(whole)?;
                self.add_days(0, fraction * 30.0)?;
                return Some(());
            }
            "week" => ((0, 0.0), Some((whole.checked_mul(7)?, fraction * 7.0))),
            "day" => ((0, 0.0), Some((whole, fraction))),
            _ => {
                let per = match unit {
                    "hour" => MICROS_PER_HOUR,
                    "minute" => MICROS_PER_MINUTE,
                    "second" => MICROS_PER_SECOND,
                    "millisecond" => 1000,
                    "microsecond" => 1,
                    _ => return None,
                };
                self.whole_micros = self.whole_micros.checked_add(whole.checked_mul(per)?)?;
                self.micros += fraction * per as f64;
                return Some(());
            }
        };
        self.months = self.months.checked_add(months.0)?;
        self.months = self.months.checked_add(months.1.round_ties_even() as i64)?;
        if let Some((whole, fraction)) = days {
            self.add_days(whole, fraction)?;
        }
        Some(())
    }

    fn add_days(&mut self, whole: i64, fraction: f64) -> Option<()> {
        self.days = self.days.checked_add(whole)?.checked_add(fraction.trunc() as i64)?;
        self.micros += fraction.fract() * MICROS_PER_DAY as f64;
        Some(())
    }

    fn finish(self, negative: bool) -> Option<IntervalMonthDayNano> {
        let sign = if negative { -1 } else { 1 };
        let micros = self.whole_micros.checked_add(self.micros.round_ties_even() as i64)?;
        Some(IntervalMonthDayNano::new(
            i32::try_from(self.months * sign).ok()?,
            i32::try_from(self.days * sign).ok()?,
            (micros * sign).checked_mul(1000)?,
        ))
    }
}

fn unit(word: &str) -> Option<&'static str> {
    Some(match word {
        "millennium" | "millennia" | "mil" | "mils" | "millenniums" => "millennium",
        "century" | "centuries" | "cent" | "c" => "century",
        "decade" | "decades" | "dec" | "decs" => "decade",
        "year" | "years" | "yr" | "yrs" | "y" => "year",
        "month" | "months" | "mon" | "mons" => "month",
        "week" | "weeks" | "w" => "week",
        "day" | "days" | "d" => "day",
        "hour" | "hours" | "hr" | "hrs" | "h" => "hour",
        "minute" | "minutes" | "min" | "mins" | "m" => "minute",
        "second" | "seconds" | "sec" | "secs" | "s" => "second",
        "millisecond" | "milliseconds" | "msec" | "msecs" | "ms" | "millisecon" => "millisecond",
        "microsecond" | "microseconds" | "usec" | "usecs" | "us" => "microsecond",
        _ => return None,
    })
}

/// The interval that a text stands for; `None` where it is none.
pub fn read(text: &str) -> Option<IntervalMonthDayNano> {
    let lower = text.trim_matches(is_space).to_ascii_lowercase();
    match lower.strip_prefix('p') {
        Some(iso) => iso_interval(iso),
        None => verbose_interval(&lower),
    }
}

/// As ISO 8601 has it, and PostgreSQL where IntervalStyle is iso_8601: `P1Y2M3DT4H5M6.7S`.
pub fn iso(value: IntervalMonthDayNano) -> String {
    let mut text = "P".to_string();
    let put = |text: &mut String, parts: &[(i64, &str)]| {
        for (count, unit) in parts.iter().filter(|(count, _)| *count != 0) {
            let _ = write!(text, "{count}{unit}");
        }
    };
    let (years, months) = (value.months / 12, value.months % 12);
    put(&mut text, &[(years.into(), "Y"), (months.into(), "M"), (value.days.into(), "D")]);
    let micros = value.nanoseconds / 1000;
    if micros != 0 {
        text.push('T');
    }
    let (hours, minutes) = (micros / MICROS_PER_HOUR, micros / MICROS_PER_MINUTE % 60);
    put(&mut text, &[(hours, "H"), (minutes, "M")]);
    let seconds = micros % MICROS_PER_MINUTE;
    if seconds != 0 {
        let sign = if seconds < 0 { "-" } else { "" };
        let (whole, fraction) =
            (seconds.abs() / MICROS_PER_SECOND, seconds.abs() % MICROS_PER_SECOND);
        let _ = write!(text, "{sign}{whole}");
        push_fraction(&mut text, fraction);
        text.push('S');
    }
    if text == "P" { "PT0S".to_string() } else { text }
}

/// A number with its fraction, and what follows it.
fn number(text: &str) -> Option<(i64, f64, bool, &str)> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end = digits.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(digits.len());
    let (number, rest) = digits.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if number.is_empty() || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction: f64 = format!("0.{fraction}0").parse().ok()?;
    let sign = if negative { -1 } else { 1 };
    Some((whole * sign, fraction * sign as f64, negative, rest))
}

fn verbose_interval(text: &str) -> Option<IntervalMonthDayNano> {
    let mut span = Span::default();
    let mut rest = text.strip_prefix('@').unwrap_or(text).trim_start();
    let mut ago = false;
    let mut any = false;
    while !rest.is_empty() {
        if rest == "ago" && any {
            ago = true;
            break;
        }
        let (whole, fraction, negative, tail) = number(rest)?;
        if let Some(after) = tail.strip_prefix(':') {
            // h:mm[:ss[.f]], or mm:ss.f with a fraction.
            let end = after
                .find(|c: char| !c.is_ascii_digit() && c != ':' && c != '.')
                .unwrap_or(after.len());
            let fields: Vec<&str> = after[..end].split(':').collect();
            let sign = if negative { -1 } else { 1 };
            let (hours, minutes, seconds) = match fields.as_slice() {
                [minutes, seconds] => (whole.abs(), minutes.parse::<i64>().ok()?, *seconds),
                [seconds] if seconds.contains('.') => (0, whole.abs(), *seconds),
                [minutes] => (whole.abs(), minutes.parse().ok()?, "0"),
                _ => return None,
            };
            let micros = seconds_of(seconds)?;
            if minutes >= 60 || micros > MICROS_PER_MINUTE {
                return None;
            }
            let time = hours
                .checked_mul(MICROS_PER_HOUR)?
                .checked_add(minutes * MICROS_PER_MINUTE + micros)?;
            span.whole_micros = span.whole_micros.checked_add(time * sign)?;
            rest = &after[end..];
        } else if let Some(months) =
            tail.strip_prefix('-').filter(|t| t.starts_with(|c: char| c.is_ascii_digit()))
        {
            // years-months
            let end = months.find(|c: char| !c.is_ascii_digit()).unwrap_or(months.len());
            let months_number: i64 = months[..end].parse().ok()?;
            let sign = if negative { -1 } else { 1 };
            span.months = span.months.checked_add(whole.checked_mul(12)? + sign * months_number)?;
            rest = &months[end..];
        } else {
            let tail = tail.trim_start_matches(is_space);
            let end = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
            let word = &tail[..end];
            if word.is_empty() {
                // Days before a time, seconds at the end.
                let name = if tail.is_empty() { "second" } else { "day" };
                if name == "day" && !tail.contains(':') {
                    return None;
                }
                span.add(whole, fraction, name)?;
            } else {
                span.add(whole, fraction, unit(word)?)?;
            }
            rest = &tail[end..];
        }
        any = true;
        rest = rest.trim_start_matches(|c| is_space(c) || c == ',');
    }
    if any { span.finish(ago) } else { None }
}

fn iso_interval(text: &str) -> Option<IntervalMonthDayNano> {
    let mut span = Span::default();
    let mut rest = text;
    let mut time = false;
    let mut any = false;
    while !rest.is_empty() {
        if let Some(tail) = rest.strip_prefix('t') {
            (time, rest) = (true, tail);
            continue;
        }
        let (whole, fraction, _, tail) = number(rest)?;
        // The alternative format: years-months-days and h:m:s.
        if !time && tail.starts_with('-') {
            let date: Vec<&str> = rest.split('t').next()?.split('-').collect();
            let [years, months, days] = date.as_slice() else { return None };
            span.add(years.parse().ok()?, 0.0, "year")?;
            span.add(months.parse().ok()?, 0.0, "month")?;
            span.add(days.parse().ok()?, 0.0, "day")?;
            rest = &rest[rest.find('t').unwrap_or(rest.len())..];
            any = true;
            continue;
        }
        if time && tail.starts_with(':') {
            let fields: Vec<&str> = rest.split(':').collect();
            for (field, unit) in fields.iter().zip(["hour", "minute", "second"]) {
                let (whole, fraction, _, rest) = number(field)?;
                if !rest.is_empty() {
                    return None;
                }
                span.add(whole, fraction, unit)?;
            }
            return span.finish(false);
        }
        let unit = match (tail.chars().next()?, time) {
            ('y', false) => "year",
            ('m', false) => "month",
            ('w', false) => "week",
            ('d', false) => "day",
            ('h', true) => "hour",
            ('m', true) => "minute",
            ('s', true) => "second",
            _ => return None,
        };
        span.add(whole, fraction, unit)?;
        rest = &tail[1..];
        any = true;
    }
    if any { span.finish(false) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_read_and_written_as_postgresql_does() {
        for (text, written) in [
            ("1 year 2 mons 3 days 04:05:06.7", "P1Y2M3DT4H5M6.7S"),
            ("0 seconds", "PT0S"),
            ("-1 day +02:00", "P-1DT2H"),
            ("-00:00:01.5", "PT-1.5S"),
            ("-14 months", "P-1Y-2M"),
            ("36 hours", "PT36H"),
            ("P1DT2H", "P1DT2H"),
            ("-00:01:01", "PT-1M-1S"),
        ] {
            assert_eq!(read(text).map(iso).as_deref(), Some(written), "{text}");
            assert_eq!(read(written), read(text), "{written}");
        }
        for text in ["00:00:00", "23:59:59.000001", "24:00:00", "04:05:06.7"] {
            assert_eq!(clock(text).map(clock_text).as_deref(), Some(text));
        }
        assert_eq!(clock("24:00:01"), None);
        assert_eq!(read("1 fortnight"), None);
        assert_eq!(read(""), None);
    }
}
