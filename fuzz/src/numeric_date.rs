//! Parses a NumericDate (RFC 7519 section 2) from the text of a JSON number and floors it to a
//! second.

use std::sync::LazyLock;

/// More digits than any text that is parsed here.
const MOST_SHIFTS: u32 = 20_000;

/// Returns `None` beyond the years -9999 to 9999.
pub fn floor(number: &str) -> Option<i64> {
    let (negative, number) = match number.strip_prefix('-') {
        Some(number) => (true, number),
        None => (false, number),
    };
    let lower = number.to_lowercase();
    let (mantissa, exponent) = lower.split_once('e').unwrap_or((&lower, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut whole = whole.as_bytes().to_vec();
    // Store the first digit last, so that the decimal point moves by popping and pushing.
    let mut fraction = fraction.bytes().rev().collect::<Vec<_>>();
    if whole.iter().chain(&fraction).all(|digit| *digit == b'0') {
        return Some(0);
    }

    let is_left = exponent.starts_with('-');
    let magnitude = exponent.trim_start_matches(['+', '-']).trim_start_matches('0');
    let magnitude = if magnitude.is_empty() { 0 } else { magnitude.parse().unwrap_or(u32::MAX) };
    for _ in 0..magnitude.min(MOST_SHIFTS) {
        if is_left {
            // To the left of a zero integer part there are only zeros, and only the presence of a
            // fraction matters.
            let Some(digit) = whole.pop() else {
                break;
            };
            fraction.push(digit);
        } else {
            whole.push(fraction.pop().unwrap_or(b'0'));
        }
    }

    let whole = whole.iter().skip_while(|digit| **digit == b'0').collect::<Vec<_>>();
    if whole.len() > 15 {
        return None;
    }
    let seconds = whole.iter().fold(0_i64, |sum, digit| 10 * sum + i64::from(**digit - b'0'));
    let has_fraction = fraction.iter().any(|digit| *digit != b'0');
    let seconds = match (negative, has_fraction) {
        (false, _) => seconds,
        (true, false) => -seconds,
        (true, true) => -seconds - 1,
    };
    let (first, end) = *YEARS;
    (first..end).contains(&seconds).then_some(seconds)
}

/// The first second of the year -9999 and of the year 10000.
static YEARS: LazyLock<(i64, i64)> = LazyLock::new(|| {
    let is_leap = |year: &i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = |year: i64| if is_leap(&year) { 366 } else { 365 };
    let before = (-9999..1970).map(days).sum::<i64>();
    let after = (1970..10_000).map(days).sum::<i64>();
    (-before * 86_400, after * 86_400)
});
