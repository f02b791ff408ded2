//! The total of the checks of one key: never more than the rule allows, and no wasted token.
//!
//! Every check has the times at which it was sent and answered, by the clock of the server, which is this machine's.
//! The server decided between the two. Two facts follow without an assumption on speed:
//!
//! - **never more**: the tokens that were certainly admitted within a span are at most the bound of the span, for all
//!   spans;
//! - **nothing wasted**: every denial was due. The tokens admitted before it leave no room for its cost.
//!
//! The second fact covers the whole run only if the demand never paused. A bucket that was full in between has
//! correctly discarded tokens. [`Verdict::saturated`] reports it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::records::{Admitted, Check, denials, moments, single, sum};
use tower_sluice::Quota;

/// The five algorithms. Times in µs.
#[derive(Clone, Copy)]
pub enum Rule {
    TokenBucket {
        capacity: u64,
        refill: u64,
        period: u64,
    },
    IntervalBucket {
        capacity: u64,
        refill: u64,
        period: u64,
    },
    FixedWindow {
        limit: u64,
        window: u64,
    },
    SlidingWindow {
        limit: u64,
        window: u64,
    },
    SlidingLog {
        limit: u64,
        window: u64,
    },
}

/// The total of the checks of a key, in tokens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Verdict {
    pub admitted: u64,
    /// The tokens that were certainly due until the last denial, or until the last one in each window.
    pub due: u64,
    /// The tokens admitted in the same time.
    pub of: u64,
    /// The bound of the whole run, by the server clock.
    pub most: u64,
    /// Whether the demand never paused, so that `due` is the whole supply.
    pub saturated: bool,
}

/// An error of a limiter.
#[derive(Debug)]
pub enum Fault {
    /// It admitted more than its rule allows.
    TooMuch(String),
    /// It denied a cost that it could have admitted.
    Wasted(String),
    /// The numbers of a reply are contradictory.
    Untrue(String),
    /// Not an error: a check took so long that its window is unknown.
    Slow,
}

/// When a key was checked.
#[derive(Clone, Copy)]
pub struct Demand {
    /// The times before the first and after the last check, by the server clock.
    pub run: (u64, u64),
    /// The longest gap between two checks that is not a pause.
    pub pause: u64,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMuch(what) => write!(f, "too much: {what}"),
            Self::Wasted(what) => write!(f, "wasted: {what}"),
            Self::Untrue(what) => write!(f, "untrue: {what}"),
            Self::Slow => f.write_str("too slow to tell"),
        }
    }
}

type Judged = Result<Verdict, Fault>;

impl Rule {
    pub fn quota(self) -> Quota {
        let micros = Duration::from_micros;
        match self {
            Self::TokenBucket {
                capacity,
                refill,
                period,
            } => Quota::token_bucket(capacity, refill, micros(period)),
            Self::IntervalBucket {
                capacity,
                refill,
                period,
            } => Quota::interval_bucket(capacity, refill, micros(period)),
            Self::FixedWindow { limit, window } => Quota::fixed_window(limit, micros(window)),
            Self::SlidingWindow { limit, window } => Quota::sliding_window(limit, micros(window)),
            Self::SlidingLog { limit, window } => Quota::sliding_log(limit, micros(window)),
        }
    }

    /// The same rule, with all times this many times longer.
    pub fn slower(mut self, times: u64) -> Self {
        match &mut self {
            Self::TokenBucket { period, .. } | Self::IntervalBucket { period, .. } => {
                *period *= times;
            }
            Self::FixedWindow { window, .. }
            | Self::SlidingWindow { window, .. }
            | Self::SlidingLog { window, .. } => *window *= times,
        }
        self
    }

    /// Judges all checks of one key that was new at the start of the run.
    pub fn judge(self, checks: &[Check], demand: Demand) -> Judged {
        match self {
            Self::TokenBucket {
                capacity,
                refill,
                period,
            } => {
                let earned = |span| span * refill / period;
                bucket(capacity, earned, 0, checks, demand)
            }
            // In a span that does not begin with the first charge one more interval may end.
            Self::IntervalBucket {
                capacity,
                refill,
                period,
            } => {
                let earned = |span| span / period * refill;
                bucket(capacity, earned, refill, checks, demand)
            }
            Self::FixedWindow { limit, window } => fixed_window(limit, window, checks, demand),
            Self::SlidingWindow { limit, window } => counter(limit, window, checks, demand),
            Self::SlidingLog { limit, window } => log(limit, window, checks, demand),
        }
    }
}

/// `earned(span)`: the whole tokens that refill in a span from the first charge. Any other span may earn `extra` more.
fn bucket(
    capacity: u64,
    earned: impl Fn(u64) -> u64,
    extra: u64,
    checks: &[Check],
    demand: Demand,
) -> Judged {
    let full = capacity;
    let admitted = Admitted::of(checks);
    let mut verdict = Verdict {
        admitted: admitted.total(),
        most: full + earned(demand.run.1 - demand.run.0),
        ..Verdict::default()
    };
    verdict.within_most()?;
    admitted.in_all_spans(|span| full + extra + earned(span))?;

    // A check that finds the bucket full does not show since when. The first charge finds it full. If no other charge
    // does, the refill never paused.
    let mut full_at = checks
        .iter()
        .filter(|check| check.allowed && check.remaining.checked_add(check.cost) == Some(capacity));
    let started = checks.iter().map(|check| check.got).min();
    let (Some(started), Some(_), None) = (started, full_at.next(), full_at.next()) else {
        return Ok(verdict);
    };
    let due_at = |time: u64| full + earned(time.saturating_sub(started));
    for denied in denials(checks) {
        denied.was_due(admitted.sent_by(denied.got), due_at(denied.sent), demand)?;
    }
    let ended = checks.iter().map(|check| check.sent).max();
    if let Some(last) = single(checks).map(|denied| denied.sent).max() {
        (verdict.due, verdict.of) = (due_at(last), verdict.admitted);
        verdict.saturated = Some(last + demand.pause) >= ended;
    }
    Ok(verdict)
}

fn fixed_window(limit: u64, window: u64, checks: &[Check], demand: Demand) -> Judged {
    let mut verdict = Verdict {
        most: limit * (demand.run.1 / window - demand.run.0 / window + 1),
        ..Verdict::default()
    };
    let windows = by_window(window, checks)?;
    let mut used_up = BTreeSet::new();
    for (&number, checks) in &windows {
        let mut used = 0;
        for checks in moments(checks) {
            used += sum(checks);
            at_most(limit, used, "in one window")?;
            for denied in denials(checks) {
                denied.was_due(used, limit, demand)?;
            }
        }
        verdict.admitted += used;
        if single(checks).next().is_some() {
            verdict.due += limit;
            verdict.of += used;
            used_up.insert(number);
        }
    }
    verdict.saturated = all_whole_windows(&windows, &used_up);
    verdict.within_most()?;
    Ok(verdict)
}

fn counter(limit: u64, window: u64, checks: &[Check], demand: Demand) -> Judged {
    let mut verdict = Verdict {
        // The last two windows together admit at most the estimate at the end: a limit, and the part that has slid out.
        most: match demand.run.1 / window - demand.run.0 / window {
            0 => limit,
            before => limit * before + limit * (demand.run.1 % window) / window,
        },
        ..Verdict::default()
    };
    let windows = by_window(window, checks)?;
    let mut used_up = BTreeSet::new();
    let mut last = (0, 0);
    for (&number, checks) in &windows {
        let previous = if last.0 + 1 == number { last.1 } else { 0 };
        let (mut used, mut due, mut of) = (0, 0, 0);
        for checks in moments(checks) {
            let left = window - checks[0].sent % window;
            let had = limit - (previous * left).div_ceil(window);
            let allowed = sum(checks);
            used += allowed;
            if allowed > 0 {
                at_most(had, used, "in one window, by the estimate")?;
            }
            for denied in denials(checks) {
                denied.was_due(used, had, demand)?;
            }
            if single(checks).next().is_some() {
                (due, of) = (had, used);
                if left <= demand.pause {
                    used_up.insert(number);
                }
            }
        }
        verdict.admitted += used;
        verdict.due += due;
        verdict.of += of;
        last = (number, used);
    }
    verdict.saturated = all_whole_windows(&windows, &used_up);
    verdict.within_most()?;
    Ok(verdict)
}

fn log(limit: u64, window: u64, checks: &[Check], demand: Demand) -> Judged {
    // A window includes its start and excludes its end, or the other way round.
    let most = |span| limit * (span / window + 1);
    let admitted = Admitted::of(checks);
    let mut verdict = Verdict {
        admitted: admitted.total(),
        most: most(demand.run.1 - demand.run.0),
        ..Verdict::default()
    };
    verdict.within_most()?;
    admitted.in_all_spans(most)?;
    for denied in denials(checks) {
        let passed = admitted.got_by(denied.sent - window);
        denied.was_due(admitted.sent_by(denied.got) - passed, limit, demand)?;
    }

    // The denial of a single token shows a whole limit in the window before it. Counts such windows without overlap,
    // from the last one back.
    let mut shown: Vec<_> = single(checks).collect();
    shown.sort_unstable_by_key(|denied| denied.got);
    let mut until = u64::MAX;
    for denied in shown.iter().rev() {
        if denied.got <= until {
            verdict.due += limit;
            verdict.of += limit;
            until = denied.sent - window;
        }
    }
    let first = checks.iter().map(|check| check.sent).min().unwrap_or(0);
    let last = checks.iter().map(|check| check.got).max().unwrap_or(0);
    verdict.saturated = verdict.due >= most((last - first).saturating_sub(demand.pause));
    Ok(verdict)
}

impl Verdict {
    fn within_most(&self) -> Result<(), Fault> {
        at_most(self.most, self.admitted, "in the whole run")
    }
}

pub(super) fn at_most(most: u64, admitted: u64, when: &str) -> Result<(), Fault> {
    if admitted <= most {
        return Ok(());
    }
    Err(Fault::TooMuch(format!(
        "admitted {admitted} {when}, allowed are {most}"
    )))
}

/// Checks by the number of their window, `sent` and `got` at the exact µs of the decision, in order.
type Windows = BTreeMap<u64, Vec<Check>>;

/// The end of a window is known, so `reset_after` gives the time of the decision.
fn by_window(window: u64, checks: &[Check]) -> Result<Windows, Fault> {
    let mut windows = Windows::new();
    for check in checks {
        let ahead = (check.sent + check.reset_after) % window;
        let now = check.sent + (window - ahead) % window;
        if now > check.got {
            let (took, reset_after) = (check.got - check.sent, check.reset_after);
            return Err(Fault::Untrue(format!(
                "a check that took {took} µs got a reset after {reset_after} µs, when no window ends"
            )));
        }
        if now + window <= check.got {
            // A denial can be missing, an admission cannot.
            if check.allowed {
                return Err(Fault::Slow);
            }
            continue;
        }
        windows.entry(now / window).or_default().push(Check {
            sent: now,
            got: now,
            ..*check
        });
    }
    for checks in windows.values_mut() {
        checks.sort_unstable_by_key(|check| check.sent);
    }
    Ok(windows)
}

/// Whether all windows between the first and the last are used up, and there are at least two of them.
fn all_whole_windows(windows: &Windows, used_up: &BTreeSet<u64>) -> bool {
    let (Some((first, _)), Some((last, _))) = (windows.first_key_value(), windows.last_key_value())
    else {
        return false;
    };
    last - first > 2 && (first + 1..*last).all(|number| used_up.contains(&number))
}
