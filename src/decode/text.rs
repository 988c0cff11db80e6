//! Texts in JSON that stand for other values: decimals, dates, times.

use arrow::datatypes::{TimeUnit, i256};

/// The unscaled integer of a decimal number's text with `scale` digits after the point; surplus
/// digits round half away from zero. `None` when it is no number or has more than `precision`
/// digits.
pub fn decimal(text: &str, precision: u8, scale: i8) -> Option<i256> {
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], text[at + 1..].parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (negative, digits) = match mantissa.as_bytes().first()? {
        b'-' => (true, &mantissa[1..]),
        b'+' => (false, &mantissa[1..]),
        _ => (false, mantissa),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    // Number of written digits before the new end of the number.
    let keep = i64::from(exponent) + i64::from(scale) + whole.len() as i64;
    let mut value = DecimalDigits::default();
    let mut round_up = false;
    for (index, digit) in whole.bytes().chain(fraction.bytes()).enumerate() {
        if !digit.is_ascii_digit() {
            return None;
        }
        if (index as i64) < keep {
            value.push(digit - b'0')?;
        } else if index as i64 == keep {
            round_up = digit >= b'5';
        }
    }
    let written = (whole.len() + fraction.len()) as i64;
    if !value.is_zero() {
        for _ in written..keep {
            value.push(0)?;
        }
    }
    value.finish(negative, round_up, precision)
}

/// A number built digit by digit: in 128 bits while that is enough.
#[derive(Default)]
struct DecimalDigits {
    small: u128,
    wide: Option<i256>,
}

impl DecimalDigits {
    fn is_zero(&self) -> bool {
        self.small == 0 && self.wide.is_none()
    }

    fn push(&mut self, digit: u8) -> Option<()> {
        const TEN: i256 = i256::from_i128(10);
        if let Some(wide) = self.wide {
            self.wide = Some(wide.checked_mul(TEN)?.checked_add(i256::from_i128(digit.into()))?);
        } else if self.small < 10_u128.pow(37) {
            self.small = self.small * 10 + u128::from(digit);
        } else {
            let wide = i256::from_parts(self.small, 0);
            self.wide = Some(wide.checked_mul(TEN)?.checked_add(i256::from_i128(digit.into()))?);
        }
        Some(())
    }

    fn finish(self, negative: bool, round_up: bool, precision: u8) -> Option<i256> {
        let mut value = self.wide.unwrap_or(i256::from_parts(self.small, 0));
        if round_up {
            value = value.checked_add(i256::ONE)?;
        }
        let limit = i256::from_i128(10).checked_pow(u32::from(precision))?;
        if value >= limit {
            return None;
        }
        if negative { value.checked_neg() } else { Some(value) }
    }
}

/// Days since 1970-01-01 of `YYYY-MM-DD`.
pub fn date(text: &str) -> Option<i32> {
    let bytes = text.as_bytes();
    if bytes.len() != 10 || bytes[4] != b'-' || bytes[7] != b'-' {
        return None;
    }
    days(number(&bytes[0..4])?, number(&bytes[5..7])?, number(&bytes[8..10])?)
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.iter().try_fold(0u32, |value, byte| {
        byte.is_ascii_digit().then(|| value * 10 + u32::from(byte - b'0'))
    })
}

/// Days since 1970-01-01 of a date of the proleptic Gregorian calendar.
///
/// Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`.
fn days(year: u32, month: u32, day: u32) -> Option<i32> {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let length = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return None,
    };
    if day == 0 || day > length {
        return None;
    }
    let year = i64::from(year) - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (i64::from(month) + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    i32::try_from(era * 146_097 + day_of_era - 719_468).ok()
}

/// An RFC 3339 instant in `unit`s since the epoch, with `precision` digits of a second; without an
/// offset it is UTC. Surplus digits are cut off. `None` when it is no instant or does not fit.
pub fn timestamp(text: &str, precision: u8, unit: TimeUnit) -> Option<i64> {
    let bytes = text.as_bytes();
    if bytes.len() < 19 || !matches!(bytes[10], b'T' | b't' | b' ') {
        return None;
    }
    let days = i64::from(date(text.get(..10)?)?);
    if bytes[13] != b':' || bytes[16] != b':' {
        return None;
    }
    let (hour, minute, second) =
        (number(&bytes[11..13])?, number(&bytes[14..16])?, number(&bytes[17..19])?);
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (nanos, rest) = fraction(&bytes[19..])?;
    let offset = offset_seconds(rest)?;
    let time = i64::from(hour * 3600 + minute * 60 + second);
    let seconds = days * 86_400 + time - offset;
    let cut = 10_i64.pow(9 - u32::from(precision.min(9)));
    let nanos = nanos / cut * cut;
    match unit {
        TimeUnit::Second => Some(seconds),
        TimeUnit::Millisecond => seconds.checked_mul(1_000)?.checked_add(nanos / 1_000_000),
        TimeUnit::Microsecond => seconds.checked_mul(1_000_000)?.checked_add(nanos / 1_000),
        TimeUnit::Nanosecond => seconds.checked_mul(1_000_000_000)?.checked_add(nanos),
    }
}

/// A number since the epoch, as Debezium writes instants in its adaptive mode: milliseconds for up to
/// 3 digits of a second, microseconds for up to 6, else nanoseconds. `None` when it does not fit.
pub fn epoch(value: i128, precision: u8, unit: TimeUnit) -> Option<i64> {
    let written: i128 = match precision {
        0..=3 => 1_000,
        4..=6 => 1_000_000,
        _ => 1_000_000_000,
    };
    let wanted = match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    };
    let cut = written / 10_i128.pow(u32::from(precision.min(9)));
    let value = value.div_euclid(cut.max(1)) * cut.max(1);
    i64::try_from((value * wanted).div_euclid(written)).ok()
}

/// Nanoseconds of `.123…` if it begins so, and what follows.
fn fraction(bytes: &[u8]) -> Option<(i64, &[u8])> {
    if bytes.first() != Some(&b'.') {
        return Some((0, bytes));
    }
    let digits = bytes[1..].iter().take_while(|b| b.is_ascii_digit()).count();
    if digits == 0 {
        return None;
    }
    let mut nanos = 0_i64;
    for index in 0..9 {
        let digit = if index < digits { bytes[1 + index] - b'0' } else { 0 };
        nanos = nanos * 10 + i64::from(digit);
    }
    Some((nanos, &bytes[1 + digits..]))
}

fn offset_seconds(bytes: &[u8]) -> Option<i64> {
    match bytes {
        [] | [b'Z' | b'z'] => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (number(&[*h1, *h2])?, number(&[*m1, *m2])?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let seconds = i64::from(hours * 3600 + minutes * 60);
            Some(if *sign == b'-' { -seconds } else { seconds })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimal_text(text: &str, precision: u8, scale: i8) -> Option<String> {
        decimal(text, precision, scale).map(|v| v.to_string())
    }

    #[test]
    fn decimals_round_half_away_from_zero_and_stay_in_range() {
        for (text, precision, scale, expected) in [
            ("12.345", 12, 2, Some("1235")),
            ("-12.345", 12, 2, Some("-1235")),
            ("12.344999", 12, 2, Some("1234")),
            ("0.5", 5, 0, Some("1")),
            ("1e3", 12, 2, Some("100000")),
            ("1.5e-3", 12, 2, Some("0")),
            ("5e-3", 12, 2, Some("1")),
            ("0e999999999", 12, 2, Some("0")),
            ("99.995", 4, 2, None),
            ("abc", 4, 2, None),
            (".", 4, 2, None),
            ("", 4, 2, None),
        ] {
            assert_eq!(decimal_text(text, precision, scale).as_deref(), expected, "{text}");
        }
        let digits = "9".repeat(76);
        assert_eq!(decimal_text(&digits, 76, 0), Some(digits.clone()));
        assert_eq!(decimal_text(&digits, 75, 0), None);
    }

    #[test]
    fn instants_follow_rfc_3339() {
        let nanos = |text| timestamp(text, 9, TimeUnit::Nanosecond);
        assert_eq!(nanos("1970-01-01T00:00:00.123456789Z"), Some(123_456_789));
        assert_eq!(nanos("1970-01-01 01:00:00+01:00"), Some(0));
        assert_eq!(timestamp("9999-12-31T23:59:59", 0, TimeUnit::Second), Some(253_402_300_799));
        assert_eq!(
            timestamp("2026-11-23T10:00:00.1239Z", 3, TimeUnit::Millisecond),
            Some(1_795_428_000_123)
        );
        for text in [
            "2026-02-29T00:00:00Z",
            "2026-11-23",
            "2026-11-23T24:00:00Z",
            "2026-11-23T10:00:00.Z",
            "2026-11-23T10:00:00+1",
        ] {
            assert_eq!(nanos(text), None, "{text}");
        }
        assert_eq!(date("2000-02-29"), Some(11_016));
    }
}
