use std::fmt;

use super::ZoneText;

/// The error returned for an invalid quota. Every message shows the value and the remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QuotaError {
    /// A count, capacity, refill, limit, period or window is 0. A 0 means neither "unlimited" nor "deny all".
    Zero {
        /// The name of the value.
        what: &'static str,
    },
    /// A value is above its maximum.
    TooLarge {
        /// The name of the value.
        what: &'static str,
        /// The value.
        value: u64,
        /// The largest accepted value.
        max: u64,
    },
    /// The bucket takes more than 2^52 µs (142 years) to fill.
    TooSlow {
        /// The capacity of the bucket, in tokens.
        capacity: u64,
        /// The tokens that come back in each period.
        refill: u64,
        /// The period, in µs.
        period_us: u64,
    },
    /// The window is longer than 2^52 µs (142 years).
    WindowTooLong {
        /// The window, in µs; `u64::MAX` if it does not fit.
        window_us: u64,
    },
    /// The time zone is not in the IANA database that is compiled in.
    UnknownZone {
        /// The name of the time zone.
        zone: ZoneText,
    },
    /// The initial tokens exceed the capacity.
    InitialAboveCapacity {
        /// The initial tokens.
        initial: u64,
        /// The capacity of the bucket, in tokens.
        capacity: u64,
    },
    /// The algorithm does not have the setting.
    NotASettingOf {
        /// The setting.
        setting: &'static str,
        /// The algorithm of the quota.
        algorithm: &'static str,
        /// The algorithms that have the setting.
        of: &'static str,
    },
}

/// The algorithms with a burst and initial tokens.
pub(super) const BUCKETS: &str = "a token bucket or an interval bucket";

impl QuotaError {
    /// Returns the message. It does not allocate, so that a panic in a constant can print it.
    pub(crate) const fn sentence(self) -> Sentence {
        let s = Sentence::new();
        match self {
            Self::Zero { what } => s.str(what).str(" is 0; use at least 1"),
            Self::TooLarge { what, value, max } => {
                s.str(what).str(" is ").number(value).str("; use at most ").number(max)
            }
            Self::TooSlow { capacity, refill, period_us } => s
                .number(capacity)
                .str(" tokens at ")
                .number(refill)
                .str(" per ")
                .number(period_us)
                .str(" us take more than 142 years to come back; use a shorter period or a smaller capacity"),
            Self::InitialAboveCapacity { initial, capacity } => s
                .str("initial tokens are ")
                .number(initial)
                .str(" and the capacity is ")
                .number(capacity)
                .str("; start with at most the capacity"),
            Self::NotASettingOf { setting, algorithm, of } => {
                s.str(setting).str(" is no setting of the ").str(algorithm).str("; leave it out or use ").str(of)
            }
            Self::UnknownZone { zone } => s
                .str("time zone \"")
                .str(zone.as_str())
                .str("\" is unknown; use a name of the IANA database, such as Europe/Zurich"),
            Self::WindowTooLong { window_us } => {
                s.str("a window of ").number(window_us).str(" us is longer than 142 years; use a shorter one")
            }
        }
    }
}

impl fmt::Display for QuotaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sentence().as_str())
    }
}

impl std::error::Error for QuotaError {}

/// A short text on the stack. A constructor that panics in a constant prints the message of the error, and `format!`
/// does not run in constants.
pub(crate) struct Sentence {
    bytes: [u8; 256],
    len: usize,
}

impl Sentence {
    const fn new() -> Self {
        Self {
            bytes: [0; 256],
            len: 0,
        }
    }

    const fn str(mut self, text: &str) -> Self {
        let text = text.as_bytes();
        let mut index = 0;
        while index < text.len() && self.len < self.bytes.len() {
            self.bytes[self.len] = text[index];
            self.len += 1;
            index += 1;
        }
        self
    }

    const fn number(self, value: u64) -> Self {
        let mut digits = [0; 20];
        let mut first = digits.len();
        let mut rest = value;
        loop {
            first -= 1;
            digits[first] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        match std::str::from_utf8(digits.split_at(first).1) {
            Ok(digits) => self.str(digits),
            Err(_) => self,
        }
    }

    pub(crate) const fn as_str(&self) -> &str {
        match std::str::from_utf8(self.bytes.split_at(self.len).0) {
            Ok(text) => text,
            Err(_) => "invalid quota",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_value_and_the_remedy() {
        let says = |error: QuotaError, text: &str| assert_eq!(error.to_string(), text);
        says(
            QuotaError::Zero { what: "capacity" },
            "capacity is 0; use at least 1",
        );
        says(
            QuotaError::TooLarge {
                what: "limit",
                value: 70_000,
                max: 65_535,
            },
            "limit is 70000; use at most 65535",
        );
        says(
            QuotaError::TooSlow {
                capacity: 1 << 40,
                refill: 1,
                period_us: u64::MAX,
            },
            "1099511627776 tokens at 1 per 18446744073709551615 us take more than 142 years to come back; use a \
             shorter period or a smaller capacity",
        );
        says(
            QuotaError::InitialAboveCapacity {
                initial: 7,
                capacity: 5,
            },
            "initial tokens are 7 and the capacity is 5; start with at most the capacity",
        );
        says(
            QuotaError::NotASettingOf {
                setting: "burst",
                algorithm: "fixed window",
                of: BUCKETS,
            },
            "burst is no setting of the fixed window; leave it out or use a token bucket or an interval bucket",
        );
    }
}
