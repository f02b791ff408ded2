//! Quotas as text.

use std::fmt;

use super::bytes::Size;
use super::grammar::UNITS;
use super::{
    CalendarWindow, FixedWindow, IntervalBucket, Origin, Quota, Rule, SlidingLog, SlidingWindow,
    TokenBucket, Total,
};

/// Writes the quota string. A quota of bytes is written in bytes: `10GB/day`.
///
/// The grammar lacks a period with a fraction of a millisecond, initial tokens, anchors, and the time after which a total
/// is forgotten. A quota with one of them is
/// written in a form that is rejected when read. A text that can be read is always read as the same quota.
impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |tokens| Size(tokens, self.unit);
        match self.rule {
            Rule::TokenBucket(TokenBucket {
                capacity,
                refill,
                period,
                initial,
                ..
            }) => bucket(f, "", [capacity, refill, initial].map(size), period),
            Rule::IntervalBucket(IntervalBucket {
                capacity,
                refill,
                period,
                initial,
                origin,
            }) => {
                bucket(
                    f,
                    "interval:",
                    [capacity, refill, initial].map(size),
                    period,
                )?;
                anchored(f, origin, None)
            }
            Rule::FixedWindow(FixedWindow {
                limit,
                window,
                origin,
            }) => {
                rate(f, "fixed-window:", size(limit), window)?;
                anchored(f, origin, Some(0))
            }
            Rule::SlidingWindow(SlidingWindow { limit, window, .. }) => {
                rate(f, "sliding-window:", size(limit), window)
            }
            Rule::SlidingLog(SlidingLog { limit, window }) => {
                rate(f, "sliding-log:", size(limit.into()), window)
            }
            Rule::CalendarWindow(CalendarWindow { limit, calendar }) => {
                write!(f, "calendar:{}/{calendar}", size(limit))
            }
            Rule::Total(Total {
                limit,
                forget_after,
            }) => {
                write!(f, "total:{}", size(limit))?;
                match forget_after {
                    Some(span) => write!(f, " (forgotten after {span} us)"),
                    None => Ok(()),
                }
            }
        }
    }
}

fn bucket(
    f: &mut fmt::Formatter<'_>,
    algorithm: &str,
    [capacity, refill, initial]: [Size; 3],
    period: u64,
) -> fmt::Result {
    rate(f, algorithm, refill, period)?;
    if capacity != refill {
        write!(f, " burst {capacity}")?;
    }
    if initial != capacity {
        write!(f, " (initially {initial})")?;
    }
    Ok(())
}

fn rate(f: &mut fmt::Formatter<'_>, algorithm: &str, count: Size, period: u64) -> fmt::Result {
    write!(f, "{algorithm}{count}/")?;
    let whole = UNITS.iter().find(|(micros, _)| {
        period.is_multiple_of(*micros) && period / micros <= u64::from(u32::MAX)
    });
    match whole {
        Some((micros, names)) if *micros == period => f.write_str(names[0]),
        Some((micros, names)) => write!(f, "{} {}", period / micros, names[1]),
        None => write!(f, "{period} us"),
    }
}

fn anchored(f: &mut fmt::Formatter<'_>, origin: Origin, default: Origin) -> fmt::Result {
    match origin {
        _ if origin == default => Ok(()),
        None => f.write_str(" (from first use)"),
        Some(offset) => write!(f, " (from the epoch + {offset} us)"),
    }
}
