//! Days of the calendar, in UTC.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A day from 1970 to 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a day from 1970-01-01 to 9999-12-31, written so")]
pub struct DayError;

impl Day {
    pub fn of(at: SystemTime) -> Self {
        let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self((seconds / 86_400).min(LAST.into()) as u32)
    }

    /// Its first moment.
    pub fn start(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(u64::from(self.0) * 86_400)
    }

    /// Year, month and day as a Gregorian date. Years begin in March here, so that the leap day comes last in its year.
    pub fn date(self) -> (u32, u32, u32) {
        let days = self.0 + 719_468;
        let (era, of_era) = (days / 146_097, days % 146_097);
        let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let march = (5 * of_year + 2) / 153;
        let day = of_year - (153 * march + 2) / 5 + 1;
        let month = if march < 10 { march + 3 } else { march - 9 };
        (era * 400 + year + u32::from(month <= 2), month, day)
    }

    /// The inverse of [`Day::date`]; `None` where there is no such day.
    fn from_date(year: u32, month: u32, day: u32) -> Option<Self> {
        if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
            return None;
        }
        let from_march = if month > 2 { month - 3 } else { month + 9 };
        let year = year - u32::from(month <= 2);
        let (era, of_era) = (year / 400, year % 400);
        let of_year = (153 * from_march + 2) / 5 + day - 1;
        let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year;
        // The 30th of February is another day's name.
        days.checked_sub(719_468).map(Self).filter(|found| found.date().2 == day)
    }
}

/// 9999-12-31.
const LAST: u32 = 2_932_896;

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.date();
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

impl FromStr for Day {
    type Err = DayError;

    fn from_str(text: &str) -> Result<Self, DayError> {
        let bytes = text.as_bytes();
        let shaped = bytes.len() == 10
            && bytes.iter().enumerate().all(|(i, b)| if i == 4 || i == 7 { *b == b'-' } else { b.is_ascii_digit() });
        if !shaped {
            return Err(DayError);
        }
        let number = |range: std::ops::Range<usize>| text[range].parse().unwrap_or(0);
        Self::from_date(number(0..4), number(5..7), number(8..10)).ok_or(DayError)
    }
}

/// A moment in UTC with milliseconds, as RFC 3339 writes it; before 1970 that year's beginning.
pub fn rfc3339(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (h, m, s) = (since.as_secs() / 3600 % 24, since.as_secs() / 60 % 60, since.as_secs() % 60);
    format!("{}T{h:02}:{m:02}:{s:02}.{:03}Z", Day::of(at), since.subsec_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_767_225_599, "2025-12-31T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn every_day_is_its_own_date_again() {
        for days in (0..=LAST).step_by(97).chain([0, 58, 59, 11_015, 11_016, LAST]) {
            let day = Day(days);
            assert_eq!(day.to_string().parse(), Ok(day));
            assert_eq!(Day::of(day.start()), day);
        }
        assert_eq!(Day(LAST).to_string(), "9999-12-31");
        assert_eq!("2000-02-29".parse::<Day>().unwrap().start(), UNIX_EPOCH + Duration::from_secs(951_782_400));
    }

    #[test]
    fn what_is_no_day_is_refused() {
        for text in [
            "",
            "2001-02-29",
            "2000-02-30",
            "2000-13-01",
            "2000-00-01",
            "2000-1-1",
            "1969-12-31",
            "+200-01-01",
            "2000/01/01",
        ] {
            assert_eq!(text.parse::<Day>(), Err(DayError), "{text:?}");
        }
    }
}
