//! A policy in the form of the scripts, prepared once: the numbers of each quota, and the suffix of its key.

use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::calendar_edges::CalendarEdges;
use crate::policy::{NamedQuota, Policy};
use crate::quota::{Origin, Rule, Unit};

/// The quotas of a policy in the form that is sent.
pub(super) struct PackedQuotas {
    pub(super) each: Vec<PackedQuota>,
    pub(super) algorithms: Algorithms,
    /// Whether all quotas are buckets, so that there are reservations.
    pub(super) of_buckets: bool,
    /// The hash of the policy's name, within this process.
    pub(super) name: u64,
}

/// One quota.
pub(super) struct PackedQuota {
    /// The letter of the algorithm, then its numbers of 64 bits each.
    pub(super) numbers: Vec<u8>,
    /// The edges that follow the numbers of a calendar window. They depend on the time.
    pub(super) calendar: Option<CalendarEdges>,
    /// The end of the name of the key.
    pub(super) suffix: String,
    /// The index of its scope.
    pub(super) scope: usize,
}

/// The suffix of the key of a block. It is no suffix of a quota.
pub(super) const BLOCK_SUFFIX: &[u8] = b"x";

/// A set of algorithms, by their index in the order of [`Rule`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Algorithms(u8);

impl Algorithms {
    pub(super) const COUNT: usize = 7;

    pub(super) const fn bits(self) -> usize {
        self.0 as usize
    }

    pub(super) const fn has(self, index: usize) -> bool {
        self.0 & (1 << index) != 0
    }

    #[cfg(test)]
    pub(super) fn from_bits(bits: usize) -> Self {
        Self(u8::try_from(bits).expect("a set of seven"))
    }
}

impl PackedQuotas {
    pub(super) fn for_policy(policy: &Policy) -> &Self {
        policy.derived(Self::prepare)
    }

    /// Returns whether one of the quotas is a sliding log.
    pub(super) const fn keeps_logs(&self) -> bool {
        self.algorithms.has(4)
    }

    fn prepare(policy: &Policy) -> Self {
        let mut algorithms = Algorithms::default();
        let mut of_buckets = true;
        for named in policy.quotas() {
            let index = algorithm_index(&named.quota.rule);
            algorithms.0 |= 1 << index;
            of_buckets &= index < 2;
        }
        let mut hasher = DefaultHasher::new();
        policy.name().hash(&mut hasher);
        let pack = |named: &NamedQuota| PackedQuota {
            numbers: numbers(&named.quota.rule),
            calendar: match named.quota.rule {
                Rule::CalendarWindow(window) => Some(CalendarEdges::new(window.calendar)),
                _ => None,
            },
            suffix: suffix(policy, named),
            scope: named.scope(),
        };
        Self {
            each: policy.quotas().iter().map(pack).collect(),
            algorithms,
            of_buckets,
            name: hasher.finish(),
        }
    }
}

const fn algorithm_index(rule: &Rule) -> usize {
    match rule {
        Rule::TokenBucket(_) => 0,
        Rule::IntervalBucket(_) => 1,
        Rule::FixedWindow(_) => 2,
        Rule::SlidingWindow(_) => 3,
        Rule::SlidingLog(_) => 4,
        Rule::Total(_) => 5,
        Rule::CalendarWindow(_) => 6,
    }
}

/// Packs the numbers in the form of the `quota` sections of the scripts. All are below 2^53.
fn numbers(rule: &Rule) -> Vec<u8> {
    let origin = |origin: Origin| origin.map_or(-1, signed);
    match *rule {
        Rule::TokenBucket(bucket) => {
            let per_token = bucket.units.per_token.get();
            let owed = (bucket.capacity - bucket.initial) * per_token;
            pack(
                b'b',
                &[
                    signed(bucket.capacity),
                    signed(bucket.units.per_micro.get()),
                    signed(per_token),
                    signed(owed),
                ],
            )
        }
        Rule::IntervalBucket(bucket) => pack(
            b'i',
            &[
                signed(bucket.capacity),
                signed(bucket.refill),
                signed(bucket.period),
                signed(bucket.capacity - bucket.initial),
                origin(bucket.origin),
            ],
        ),
        Rule::FixedWindow(fixed) => pack(
            b'f',
            &[
                signed(fixed.limit),
                signed(fixed.window),
                origin(fixed.origin),
            ],
        ),
        Rule::SlidingWindow(sliding) => pack(
            b's',
            &[
                signed(sliding.limit),
                signed(sliding.window),
                signed(sliding.tick),
                signed(sliding.ticks),
            ],
        ),
        Rule::SlidingLog(log) => pack(b'l', &[log.limit.into(), signed(log.window)]),
        Rule::Total(total) => pack(
            b't',
            &[signed(total.limit), total.forget_after.map_or(-1, signed)],
        ),
        Rule::CalendarWindow(window) => pack(b'd', &[signed(window.limit)]),
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Added to the limit, which is the first number. A 32-bit server loses the upper half of each number and reads less
/// than this, which shows that it is one.
const WORD_MARK: i64 = 1 << 41;

fn pack(letter: u8, numbers: &[i64]) -> Vec<u8> {
    let mut packed = vec![letter];
    for (index, number) in numbers.iter().enumerate() {
        let mark = if index == 0 { WORD_MARK } else { 0 };
        packed.extend((number + mark).to_le_bytes());
    }
    packed
}

/// Returns what identifies a limit: algorithm, window, anchor, unit, and its name unless it is the policy's. Each quota
/// of a policy has another suffix.
fn suffix(policy: &Policy, named: &NamedQuota) -> String {
    let mut text = String::new();
    let (letter, window, origin) = match named.quota.rule {
        Rule::TokenBucket(_) => ('b', None, None),
        Rule::IntervalBucket(bucket) => ('i', None, bucket.origin),
        Rule::FixedWindow(fixed) => ('f', Some(fixed.window), fixed.origin),
        Rule::SlidingWindow(sliding) => ('s', Some(sliding.window), None),
        Rule::SlidingLog(log) => ('l', Some(log.window), None),
        Rule::Total(_) => ('t', None, None),
        Rule::CalendarWindow(_) => ('d', None, None),
    };
    text.push(letter);
    // Writing to a string cannot fail.
    if let Some(window) = window {
        let _ = write!(text, "{window}");
    }
    match (letter, origin) {
        ('f', Some(0)) => {}
        ('f', None) => text.push('@'),
        (_, Some(offset)) => {
            let _ = write!(text, "+{offset}");
        }
        (_, None) => {}
    }
    if named.quota.unit() == Unit::ContentBytes {
        text.push('B');
    }
    if named.name() != policy.scope_name(named.scope()) {
        text.push(':');
        text.push_str(named.name());
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::quota::{Anchor, Quota};

    #[test]
    fn different_limits_have_different_keys() {
        let day = Duration::from_secs(86_400);
        let fixed = Quota::fixed_window(5, day);
        let offset = Duration::from_secs(3_600);
        let quotas = [
            Quota::per_second(5),
            Quota::interval_bucket(5, 1, day),
            Quota::interval_bucket(5, 1, day).anchor(Anchor::Epoch {
                offset: Duration::ZERO,
            }),
            fixed,
            Quota::fixed_window(5, 2 * day),
            fixed.anchor(Anchor::FirstUse),
            fixed.anchor(Anchor::Epoch { offset }),
            fixed.with_unit(Unit::ContentBytes),
            Quota::sliding_window(5, day),
            Quota::sliding_log(5, day),
            Quota::total(5).forget_after(day),
        ];
        let suffixes: Vec<_> = quotas
            .iter()
            .map(|quota| {
                PackedQuotas::for_policy(&Policy::new("p", *quota)).each[0]
                    .suffix
                    .clone()
            })
            .collect();
        let expected = [
            "b",
            "i",
            "i+0",
            "f86400000000",
            "f172800000000",
            "f86400000000@",
            "f86400000000+3600000000",
            "f86400000000B",
            "s86400000000",
            "l86400000000",
            "t",
        ];
        assert_eq!(suffixes, expected);
        let two = Policy::new("p", fixed).and("daily", fixed);
        assert_eq!(
            PackedQuotas::for_policy(&two).each[1].suffix,
            "f86400000000:daily"
        );
        #[cfg(feature = "calendar")]
        for every in [
            crate::quota::Every::Day,
            crate::quota::Every::Month { day: 15 },
        ] {
            // A count stays while its window lasts by the calendar of now.
            let policy = Policy::new("p", Quota::calendar_window(5, every, "UTC"));
            assert_eq!(PackedQuotas::for_policy(&policy).each[0].suffix, "d");
        }
        // The key stays the same when the numbers change, so that spent tokens stay spent.
        let (raised, burst) = (Quota::per_minute(9), Quota::per_second(1).burst(7));
        for quota in [raised, burst] {
            assert_eq!(
                PackedQuotas::for_policy(&Policy::new("p", quota)).each[0].suffix,
                "b"
            );
        }
    }
}
