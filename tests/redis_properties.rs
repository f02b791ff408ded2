//! Memory and Redis give the same answers, tried with random quotas and random traffic on a real server.
//!
//! Scripts are told the time of the clock that memory reads ([`Frozen`]), and so is the optimistic mode
//! ([`ClockProxy`]). Keys expire by the server's own clock meanwhile: both backends keep idle buckets for longer than
//! any clock goes here.

mod support;

use std::cell::Cell;
use std::convert::Infallible;
use std::fmt::Debug;
use std::future::Ready;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestCaseResult};
use tokio::runtime::Runtime;
use tower_sluice::algorithm::{self, State};
use tower_sluice::backend::redis::{Atomicity, RedisBuilder};
use tower_sluice::backend::{Answer, Backend, BackendContext, Op, Reply};
use tower_sluice::clock::{Clock, ManualClock, Timestamp};
use tower_sluice::decision::QuotaSnapshot;
use tower_sluice::quota::{Anchor, Unit};
use tower_sluice::{
    Cost, Key, Limiter, MemoryBackend, Policy, Quota, Receipt, RedisBackend, Reservation,
    RetryAfter,
};

use crate::support::clock_proxy::ClockProxy;
use crate::support::expiring::Expiring;
use crate::support::frozen::Frozen;
use crate::support::property::{Seen, try_all};
use crate::support::redis::RedisServer;

/// A time in the year 2027, µs.
const TODAY: u64 = 1_800_000_000_000_000;

/// The first time that is none, µs.
const END: u64 = 1 << 53;

/// The latest time that is tried. In the very last µs the entries of a log, numbered from their time, would pass the
/// end.
const LATEST: u64 = END - 1_000;

/// The longest time to fill, and the longest window, µs.
const LONGEST: u64 = 1 << 52;

/// Longer than any clock here goes on.
const FOR_EVER: Duration = Duration::from_micros(END);

// -- Running a property

const SEEDS: &str = "tests/redis_properties.proptest-regressions";

fn for_all<S>(strategy: S, property: impl Fn(S::Value, &Seen) -> TestCaseResult) -> Seen
where
    S: Strategy,
    S::Value: Debug,
{
    try_all(SEEDS, Config::default().cases, strategy, property)
}

/// A quarter of the cases: for what takes its time.
fn for_some<S>(strategy: S, property: impl Fn(S::Value, &Seen) -> TestCaseResult) -> Seen
where
    S: Strategy,
    S::Value: Debug,
{
    try_all(
        SEEDS,
        Config::default().cases.div_ceil(4),
        strategy,
        property,
    )
}

// -- Quotas

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Bucket,
    IntervalBucket,
    FixedWindow,
    SlidingWindow,
    SlidingLog,
}

const BUCKETS: &[Kind] = &[Kind::Bucket, Kind::IntervalBucket];
const STRINGS: &[Kind] = &[
    Kind::Bucket,
    Kind::IntervalBucket,
    Kind::FixedWindow,
    Kind::SlidingWindow,
];
const ALL: &[Kind] = &[
    Kind::Bucket,
    Kind::IntervalBucket,
    Kind::FixedWindow,
    Kind::SlidingWindow,
    Kind::SlidingLog,
];

/// What makes a quota this limit and no other.
#[derive(Clone, Copy, Debug)]
struct Shape {
    kind: Kind,
    /// Period or window, µs.
    span: u64,
    /// In thousandths of a span.
    offset: Option<u64>,
    bytes: bool,
    /// Whether it starts full. Not a part of its identity, but state that one who starts full has left may be gone as
    /// soon as it owes nothing, and then one who does not would notice.
    full: bool,
}

/// What may change in it.
#[derive(Clone, Copy, Debug)]
struct Counts {
    limit: u64,
    refill: u64,
    initial: u64,
}

/// A quota, and the spans of time that matter to it.
#[derive(Clone, Copy, Debug)]
struct Limit {
    quota: Quota,
    kind: Kind,
    span: u64,
    /// Time to fill, or the window: µs.
    horizon: u64,
}

impl Limit {
    fn of(shape: Shape, counts: Counts) -> Option<Self> {
        let Shape { kind, span, .. } = shape;
        let time = Duration::from_micros(span);
        let Counts { limit, refill, .. } = counts;
        let initial = if shape.full {
            limit
        } else {
            counts.initial % limit
        };
        let anchor = match shape.offset {
            None => Anchor::FirstUse,
            Some(part) => {
                let offset = u128::from(span) * u128::from(part) / 1_000;
                let offset = Duration::from_micros(u64::try_from(offset).expect("a part"));
                Anchor::Epoch { offset }
            }
        };
        let quota = match kind {
            Kind::Bucket => Quota::try_token_bucket(limit, refill, time)
                .map(|quota| quota.initial_tokens(initial)),
            Kind::IntervalBucket => Quota::try_interval_bucket(limit, refill, time)
                .map(|quota| quota.initial_tokens(initial).anchor(anchor)),
            Kind::FixedWindow => {
                Quota::try_fixed_window(limit, time).map(|quota| quota.anchor(anchor))
            }
            Kind::SlidingWindow => Quota::try_sliding_window(limit, time),
            Kind::SlidingLog => Quota::try_sliding_log(limit.min(65_535), time),
        };
        let quota = quota.ok()?;
        let horizon = match quota.grains() {
            Some((per_micro, per_token)) => (limit * per_token).div_ceil(per_micro),
            None if kind == Kind::IntervalBucket => limit.div_ceil(refill) * span,
            None => span,
        };
        Some(Self {
            quota: if shape.bytes {
                quota.with_unit(Unit::ContentBytes)
            } else {
                quota
            },
            kind,
            span,
            horizon,
        })
    }
}

/// The most tokens of a quota.
const MOST: u64 = 1 << 40;

/// Fractions and edges occur with small odd numbers; some are at the ends of their ranges.
fn counts() -> impl Strategy<Value = Counts> {
    let small = || 1..=20_u64;
    let huge = || {
        prop_oneof![
            Just(1),
            Just(MOST),
            (MOST - 9)..=MOST,
            65_530..=65_540_u64,
            1..=MOST
        ]
    };
    prop_oneof![
        8 => (small(), small(), small()),
        1 => (huge(), huge(), small()),
        1 => (huge(), huge(), huge()),
    ]
    .prop_map(|(limit, refill, initial)| Counts {
        limit,
        refill,
        initial,
    })
}

fn shape(kinds: &'static [Kind]) -> impl Strategy<Value = Shape> {
    let span = prop_oneof![
        4 => 1..=20_u64,
        8 => 1..=5_000_u64,
        3 => 1..=(3 * 86_400_000_000_u64),
        1 => (0..=52_u64).prop_map(|bits| 1 << bits),
        1 => (LONGEST - 9)..=LONGEST,
    ];
    let offset = prop_oneof![1 => Just(None), 2 => (0..1_000_u64).prop_map(Some)];
    let kind = proptest::sample::select(kinds);
    let (bytes, full) = (proptest::bool::weighted(0.2), proptest::bool::weighted(0.7));
    (kind, span, offset, bytes, full).prop_map(|(kind, span, offset, bytes, full)| Shape {
        kind,
        span,
        offset,
        bytes,
        full,
    })
}

/// A policy as it was set up, and with other numbers: what was spent under one stays spent under the other.
#[derive(Clone, Debug)]
struct Setting {
    limits: Vec<[Limit; 2]>,
    policies: [Policy; 2],
}

fn setting(kinds: &'static [Kind], most: usize) -> impl Strategy<Value = Setting> {
    let limit = (shape(kinds), counts(), counts(), any::<bool>()).prop_filter_map(
        "more than 142 years",
        |(shape, counts, mut others, same_time)| {
            // One of the two is nearer to what happens: a plan that grows.
            if same_time {
                others.refill = counts.refill;
                others.initial = counts.initial;
            }
            Some([Limit::of(shape, counts)?, Limit::of(shape, others)?])
        },
    );
    vec(limit, 1..=most).prop_map(|limits| {
        let policy = |which: usize| {
            let named = limits
                .iter()
                .enumerate()
                .map(|(index, limit)| (format!("quota {index}"), limit[which].quota));
            Policy::try_from_quotas("properties", named).expect("1 to 4 quotas")
        };
        let policies = [policy(0), policy(1)];
        Setting { limits, policies }
    })
}

fn settings() -> impl Strategy<Value = Setting> {
    prop_oneof![
        3 => setting(ALL, 1),
        3 => setting(ALL, 4),
        2 => setting(BUCKETS, 3),
        1 => setting(STRINGS, 4),
    ]
}

// -- Traffic

/// How the clock moves, in terms of a quota.
#[derive(Clone, Copy, Debug)]
enum Step {
    Micros(u64),
    /// So many thousandths of the horizon.
    Part(u64),
    /// The horizon, and a few µs.
    Horizon(i64),
    /// The next edge of a span from the epoch, and a few µs.
    Edge(i64),
    /// Back, by so many thousandths of the horizon.
    Back(u64),
    /// Back by the horizon, and a few µs.
    BackByHorizon(i64),
}

impl Step {
    fn from(self, now: u64, limit: &Limit) -> u64 {
        let part = |part: u64| {
            u64::try_from(u128::from(limit.horizon) * u128::from(part) / 1_000).expect("fits")
        };
        let then = match self {
            Self::Micros(micros) => now + micros,
            Self::Part(thousandths) => now + part(thousandths),
            Self::Horizon(few) => (now + limit.horizon).saturating_add_signed(few),
            Self::Edge(few) => (now - now % limit.span + limit.span)
                .saturating_add_signed(few)
                .max(now),
            Self::Back(thousandths) => now.saturating_sub(part(thousandths)),
            Self::BackByHorizon(few) => now
                .saturating_sub(limit.horizon)
                .saturating_add_signed(-few),
        };
        then.min(LATEST)
    }

    const fn is_back(self) -> bool {
        matches!(self, Self::Back(_) | Self::BackByHorizon(_))
    }
}

#[derive(Clone, Copy, Debug)]
enum Spend {
    Tokens(u64),
    /// So many 255ths of the limit.
    Part(u64),
    /// More than the limit, if there is more.
    TooMuch(u64),
}

impl Spend {
    fn of(self, limit: u64) -> u64 {
        match self {
            Self::Tokens(tokens) => tokens,
            Self::Part(part) => limit * part / 255,
            Self::TooMuch(tokens) => limit.saturating_add(tokens),
        }
    }
}

#[derive(Clone, Debug)]
enum Act {
    Check,
    Penalty,
    Reset,
    /// Of a check, or of a reservation that was used; in whole or in part.
    Refund(Index, bool),
    /// The longest wait, in thousandths of the horizon.
    Reserve(u64),
    Cancel(Index),
    /// A reservation is used: from then on it can be refunded.
    Use(Index),
}

#[derive(Clone, Debug)]
struct Event {
    step: Step,
    /// The quota that the step and the cost are measured by.
    by: Index,
    spends: [Spend; 4],
    /// Whether each quota has a cost of its own.
    apart: bool,
    other_numbers: bool,
    act: Act,
}

impl Event {
    fn cost(&self, policy: &Policy) -> Cost {
        let limit = |index: usize| policy.quotas()[index].quota().limit();
        if self.apart {
            let mut costs = [0; 4];
            for (index, cost) in costs.iter_mut().enumerate().take(policy.quotas().len()) {
                *cost = self.spends[index].of(limit(index));
            }
            return Cost::each(costs);
        }
        Cost::new(self.spends[0].of(limit(self.by.index(policy.quotas().len()))))
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Micros(0)),
        3 => (1..=5_u64).prop_map(Step::Micros),
        6 => (0..=150_u64).prop_map(Step::Part),
        2 => (-1..=1_i64).prop_map(Step::Edge),
        1 => (-1..=1_i64).prop_map(Step::Horizon),
        2 => (0..=1_000_u64).prop_map(Step::Back),
        1 => (1_000..=4_000_u64).prop_map(Step::Back),
        1 => (-1..=1_i64).prop_map(Step::BackByHorizon),
    ]
}

fn spend() -> impl Strategy<Value = Spend> {
    prop_oneof![
        8 => (0..=3_u64).prop_map(Spend::Tokens),
        8 => (0..=255_u64).prop_map(Spend::Part),
        1 => prop_oneof![1..=3_u64, Just(u64::MAX)].prop_map(Spend::TooMuch),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        16 => Just(Act::Check),
        2 => Just(Act::Penalty),
        1 => Just(Act::Reset),
        3 => (any::<Index>(), any::<bool>()).prop_map(|(which, whole)| Act::Refund(which, whole)),
        6 => (0..=1_500_u64).prop_map(Act::Reserve),
        8 => any::<Index>().prop_map(Act::Cancel),
        1 => any::<Index>().prop_map(Act::Use),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let rarely = |odds| proptest::bool::weighted(odds);
    let spends = [spend(), spend(), spend(), spend()];
    let parts = (
        step(),
        any::<Index>(),
        spends,
        rarely(0.3),
        rarely(0.15),
        act(),
    );
    parts.prop_map(|(step, by, spends, apart, other_numbers, act)| Event {
        step,
        by,
        spends,
        apart,
        other_numbers,
        act,
    })
}

fn start() -> impl Strategy<Value = u64> {
    prop_oneof![1 => 0..10_000_u64, 3 => TODAY..(TODAY + 86_400_000_000)]
}

// -- Two backends and one clock

/// The core, with the states of one key that it never forgets. Of several quotas memory forgets those that owe nothing,
/// which shows if the clock then goes back, the numbers of the quota change, or a reservation is given up.
#[derive(Clone)]
struct Core {
    states: Arc<Mutex<Vec<Option<State>>>>,
    clock: ManualClock,
    context: Arc<BackendContext>,
}

impl Backend for Core {
    type Error = Infallible;
    type Future = Ready<Result<Reply, Infallible>>;

    fn ask(
        &self,
        op: Op,
        policy: &Policy,
        _: &Key,
    ) -> Answer<Result<Reply, Infallible>, Self::Future> {
        let (states, now) = (&mut *self.states.lock(), self.clock.now());
        states.resize(policy.quotas().len(), None);
        Answer::Now(Ok(match op {
            Op::Check(cost) => algorithm::check(policy, states, now, cost),
            Op::Reserve { cost, max_wait } => {
                algorithm::reserve(policy, states, now, cost, max_wait)
            }
            Op::Cancel(reservation) => {
                let mut reply = algorithm::cancel(policy, states, now, &reservation);
                reply.reservation = (!reply.returned).then_some(reservation);
                reply
            }
            Op::Penalize(cost) => algorithm::penalize(policy, states, now, cost),
            Op::Refund(receipt) => algorithm::refund(policy, states, now, &receipt),
            Op::Reset => algorithm::reset(policy, states, now),
        }))
    }

    fn context(&self) -> &BackendContext {
        &self.context
    }
}

/// A backend and what it has handed out.
struct Side<B> {
    backend: B,
    receipts: Vec<Receipt>,
    reservations: Vec<Reservation>,
}

impl<B: Backend> Side<B> {
    const fn of(backend: B) -> Self {
        Self {
            backend,
            receipts: Vec::new(),
            reservations: Vec::new(),
        }
    }

    /// `None` if there is nothing yet that it could be done with.
    fn op(&mut self, act: &Act, cost: Cost, horizon: u64) -> Option<Op> {
        Some(match act {
            Act::Check => Op::Check(cost),
            Act::Penalty => Op::Penalize(cost),
            Act::Reset => Op::Reset,
            Act::Refund(which, whole) => {
                let receipt =
                    (!self.receipts.is_empty()).then(|| which.get_mut(&mut self.receipts));
                let part = if *whole { Cost::new(u64::MAX) } else { cost };
                Op::Refund(receipt?.take(part))
            }
            Act::Reserve(part) => {
                let micros = u128::from(horizon) * u128::from(*part) / 1_000;
                let max_wait = Duration::from_micros(u64::try_from(micros).expect("fits"));
                Op::Reserve { cost, max_wait }
            }
            Act::Cancel(which) => Op::Cancel(self.reservation(which)?),
            Act::Use(which) => {
                let used = self.reservation(which)?;
                self.receipts.extend(used.into_receipt());
                return None;
            }
        })
    }

    fn reservation(&mut self, which: &Index) -> Option<Reservation> {
        (!self.reservations.is_empty()).then(|| {
            self.reservations
                .swap_remove(which.index(self.reservations.len()))
        })
    }

    /// The answer as it can be compared, and whether it was there at once.
    async fn ask(&mut self, op: Op, policy: &Policy, key: &Key) -> (Reported, bool) {
        let (reply, at_once) = match self.backend.ask(op, policy, key) {
            Answer::Now(reply) => (reply, true),
            Answer::Later(reply) => (reply.await, false),
        };
        let reply = reply.unwrap_or_else(|error| panic!("{error}: {error:?}"));
        (self.keep(reply), at_once)
    }

    fn keep(&mut self, reply: Reply) -> Reported {
        let reported = Reported::of(&reply);
        self.receipts.extend(reply.receipt);
        self.reservations.extend(reply.reservation);
        reported
    }
}

/// All of an answer; of receipts what they are worth, and of spans beyond 2^53 µs, 285 years, that they are: there Lua
/// has no odd numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reported {
    allowed: bool,
    retry_after: Option<RetryAfter>,
    governing: usize,
    quotas: Vec<QuotaSnapshot>,
    wait: Duration,
    returned: bool,
    receipt: Option<u64>,
    reservation: bool,
}

impl Reported {
    fn of(reply: &Reply) -> Self {
        let snapshot = reply.decision.snapshot();
        Self {
            allowed: reply.decision.is_allowed(),
            retry_after: reply.decision.retry_after().map(in_sight),
            governing: snapshot.governing(),
            quotas: snapshot.quotas().iter().map(quota_in_sight).collect(),
            wait: reply.wait,
            returned: reply.returned,
            receipt: reply.receipt.as_ref().map(Receipt::tokens),
            reservation: reply.reservation.is_some(),
        }
    }
}

fn in_sight(retry: RetryAfter) -> RetryAfter {
    match retry {
        RetryAfter::In(wait) => RetryAfter::In(wait.min(FOR_EVER)),
        RetryAfter::Never => RetryAfter::Never,
    }
}

fn quota_in_sight(quota: &QuotaSnapshot) -> QuotaSnapshot {
    QuotaSnapshot::new(
        quota.limit(),
        quota.remaining(),
        quota.retry_after().map(in_sight),
        quota.reset_after().min(FOR_EVER),
    )
}

/// A server, and what talks to it.
struct Stand {
    runtime: Runtime,
    server: RedisServer,
    clock: ManualClock,
    keys: Cell<u64>,
}

impl Stand {
    fn new() -> Self {
        Self {
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime"),
            server: RedisServer::start(),
            clock: ManualClock::at(Timestamp::from_micros(TODAY)),
            keys: Cell::new(0),
        }
    }

    /// Patient, and never forgetful.
    fn builder() -> RedisBuilder {
        RedisBackend::builder()
            .deny_cache(Duration::ZERO)
            .time_limit(Duration::from_secs(20))
            .idle_ttl(FOR_EVER)
    }

    fn frozen(&self) -> Frozen {
        let url = self.server.url();
        self.runtime.block_on(Frozen::connect(&url, &self.clock))
    }

    fn memory(&self) -> MemoryBackend<ManualClock> {
        MemoryBackend::builder()
            .clock(self.clock.clone())
            .idle_ttl(FOR_EVER)
            .build()
    }

    fn core(&self) -> Core {
        Core {
            states: Arc::default(),
            clock: self.clock.clone(),
            context: Arc::default(),
        }
    }

    fn fresh_key(&self) -> Key {
        self.keys.set(self.keys.get() + 1);
        Key::from(self.keys.get())
    }

    /// Runs the traffic against both, and compares what they tell after each step.
    fn compare<A: Backend, B: Backend>(
        &self,
        (one, other): (A, B),
        setting: &Setting,
        start: u64,
        events: &[Event],
        seen: &Seen,
        mut judge: impl FnMut(&Asked, &Reported, Reported) -> TestCaseResult,
    ) -> TestCaseResult {
        let key = self.fresh_key();
        let (mut one, mut other) = (Side::of(one), Side::of(other));
        let mut now = start;
        for (index, event) in events.iter().enumerate() {
            let by = event.by.index(setting.limits.len());
            let which = usize::from(event.other_numbers);
            let (limit, policy) = (&setting.limits[by][which], &setting.policies[which]);
            now = event.step.from(now, limit);
            self.clock.set(Timestamp::from_micros(now));
            let cost = event.cost(policy);
            let ops = (
                one.op(&event.act, cost.clone(), limit.horizon),
                other.op(&event.act, cost.clone(), limit.horizon),
            );
            let (Some(first), Some(second)) = ops else {
                prop_assert!(ops.0.is_none() && ops.1.is_none(), "step {}", index);
                continue;
            };
            note(seen, event, &first, limit.kind);
            let may_empty = matches!(first, Op::Reset | Op::Refund(_));
            let (expected, _) = self.runtime.block_on(one.ask(first, policy, &key));
            let (actual, at_once) = self.runtime.block_on(other.ask(second, policy, &key));
            let mut each = setting.limits.iter().zip(&expected.quotas);
            let is_empty = each.any(|([limit, _], quota)| {
                limit.kind == Kind::SlidingLog && quota.reset_after().is_zero()
            });
            if may_empty && is_empty {
                // Entries of the next log are told from those of this one by their µs: here they may be the same.
                one.receipts.clear();
                other.receipts.clear();
            }
            let asked = Asked {
                cost: cost.clone(),
                at_once,
            };
            if !expected.allowed {
                seen.note(format!(
                    "refused by {:?}",
                    setting.limits[expected.governing][which].kind
                ));
            }
            seen.note_reported(&expected);
            judge(&asked, &expected, actual).map_err(|why| {
                TestCaseError::fail(format!("step {index} at {now}, cost {cost:?}: {why}"))
            })?;
        }
        Ok(())
    }
}

fn note(seen: &Seen, event: &Event, op: &Op, kind: Kind) {
    if event.step.is_back() {
        seen.note(format!("{kind:?} back"));
    }
    if event.other_numbers {
        seen.note("reconfigured");
    }
    seen.note(match op {
        Op::Check(_) => "check",
        Op::Reserve { .. } => "reserve",
        Op::Cancel(_) => "cancel",
        Op::Penalize(_) => "penalty",
        Op::Refund(_) => "refund",
        Op::Reset => "reset",
    });
}

impl Seen {
    fn note_reported(&self, reported: &Reported) {
        if reported.wait > Duration::ZERO {
            self.note("a turn to come");
        }
        if reported.returned {
            self.note("a turn given back");
        }
        if reported.retry_after == Some(RetryAfter::Never) {
            self.note("never");
        }
        if reported.quotas.len() > 1 && reported.governing > 0 {
            self.note("governed by a later quota");
        }
    }
}

/// A step, for those who judge the answers to it.
struct Asked {
    cost: Cost,
    /// Whether the second backend had its answer at once.
    at_once: bool,
}

fn same(_: &Asked, expected: &Reported, actual: Reported) -> TestCaseResult {
    prop_assert_eq!(expected, &actual);
    Ok(())
}

/// What must have happened for a comparison to prove anything.
const EVERYTHING: &[&str] = &[
    "check",
    "reserve",
    "cancel",
    "penalty",
    "refund",
    "reset",
    "reconfigured",
    "a turn to come",
    "never",
    "governed by a later quota",
];

/// Only the latest of several reservations goes back.
const RARE: &[&str] = &["a turn given back"];

fn traffic() -> impl Strategy<Value = Vec<Event>> {
    vec(event(), 1..60)
}

/// A clock that never goes back.
fn forward() -> impl Strategy<Value = Vec<Event>> {
    traffic().prop_map(|mut events| {
        for event in &mut events {
            if event.step.is_back() {
                event.step = Step::Micros(1);
            }
        }
        events
    })
}

// -- The properties

#[test]
fn memory_and_redis_agree_step_by_step() {
    let stand = Stand::new();
    let redis = Stand::builder().from_connection(stand.frozen());
    let seen = for_all(
        (settings(), start(), forward()),
        |(setting, start, mut events), seen| {
            if setting.limits.len() > 1 {
                // What owes nothing memory may have forgotten: a quota with other numbers would notice.
                for event in &mut events {
                    event.other_numbers = false;
                }
            }
            let backends = (stand.memory(), redis.clone());
            stand.compare(backends, &setting, start, &events, seen, same)
        },
    );
    seen.at_least(20, EVERYTHING);
    seen.at_least(4, RARE);
}

#[test]
fn memory_and_redis_agree_when_the_clock_moves() {
    let stand = Stand::new();
    let redis = Stand::builder().from_connection(stand.frozen());
    let seen = for_all(
        (settings(), start(), traffic()),
        |(setting, start, events), seen| {
            let redis = redis.clone();
            if setting.limits.len() == 1 {
                let backends = (stand.memory(), redis);
                return stand.compare(backends, &setting, start, &events, seen, same);
            }
            stand.compare((stand.core(), redis), &setting, start, &events, seen, same)
        },
    );
    seen.at_least(20, EVERYTHING);
    seen.at_least(4, RARE);
    seen.at_least(
        50,
        &[
            "refused by Bucket",
            "refused by IntervalBucket",
            "refused by FixedWindow",
            "refused by SlidingWindow",
            "refused by SlidingLog",
            "Bucket back",
            "IntervalBucket back",
            "FixedWindow back",
            "SlidingWindow back",
            "SlidingLog back",
        ],
    );
}

#[test]
fn refund_rebases_a_log_in_the_future() {
    let stand = Stand::new();
    let policy = Policy::new("log", Quota::sliding_log(6, Duration::from_micros(7)));
    let (key, redis) = (stand.fresh_key(), Stand::builder());
    let redis = Limiter::new(policy.clone(), redis.from_connection(stand.frozen()));
    let memory = Limiter::new(policy, stand.memory());
    let at = |micros: u64| stand.clock.set(Timestamp::from_micros(TODAY + micros));
    let check = || {
        let reply = stand.runtime.block_on(redis.check(&key, 1)).expect("Redis");
        (
            memory.check_now(&key, 1).receipt.expect("allowed"),
            reply.receipt.expect("allowed"),
        )
    };
    at(13);
    let _first = check();
    at(18);
    let (mut ours, mut theirs) = check();
    // More than a window ago: both charges move to this time, and then the second one goes.
    at(10);
    let reported = stand.runtime.block_on(async {
        (
            memory.refund(&key, &mut ours, 1).await.expect("memory"),
            redis.refund(&key, &mut theirs, 1).await.expect("Redis"),
        )
    });
    assert_eq!(reported.0.reset_after(), Duration::from_micros(7));
    assert_eq!(reported.0, reported.1);
    at(17);
    let left = stand.runtime.block_on(redis.peek(&key)).expect("Redis");
    assert_eq!(left.remaining(), 6);
}

/// Nearer to either end of a log, a part and all of each charge, and what counts afterwards until none of it does.
#[test]
fn refund_from_a_log_keeps_the_other_entries() {
    const CHARGES: u64 = 9;
    let stand = Stand::new();
    let policy = Policy::new("log", Quota::sliding_log(30, Duration::from_micros(100)));
    let redis = Limiter::new(
        policy.clone(),
        Stand::builder().from_connection(stand.frozen()),
    );
    let at = |micros: u64| stand.clock.set(Timestamp::from_micros(TODAY + micros));
    for (place, back) in (0..CHARGES).flat_map(|place| [(place, 1), (place, 3)]) {
        let memory = Limiter::new(policy.clone(), stand.memory());
        let key = stand.fresh_key();
        let mut receipts = Vec::new();
        for charge in 0..CHARGES {
            at(10 * charge);
            let theirs = stand.runtime.block_on(redis.check(&key, 3)).expect("Redis");
            let ours = memory.check_now(&key, 3).receipt.expect("allowed");
            receipts.push((ours, theirs.receipt.expect("allowed")));
        }
        let (mut ours, mut theirs) = receipts.swap_remove(place as usize);
        let reported = stand.runtime.block_on(async {
            (
                memory.refund(&key, &mut ours, back).await.expect("memory"),
                redis.refund(&key, &mut theirs, back).await.expect("Redis"),
            )
        });
        assert_eq!(reported.0, reported.1, "{back} of charge {place}");
        for later in 80..=190 {
            at(later);
            let ours = memory.check_now(&key, 0).decision;
            let theirs = stand.runtime.block_on(redis.check(&key, 0)).expect("Redis");
            assert_eq!(
                ours, theirs.decision,
                "{back} of charge {place}, at {later}"
            );
        }
    }
}

/// One process, and a clock that does not go back: what the deny cache answers by itself is what would be answered, as
/// far as it knows the question. A higher cost waits no shorter, and by now more may remain.
#[test]
fn deny_cache_denies_only_denied_checks_with_their_wait() {
    let stand = Stand::new();
    let redis = Stand::builder()
        .deny_cache(FOR_EVER)
        .clock(stand.clock.clone())
        .from_connection(stand.frozen());
    let seen = for_all(
        (settings(), start(), forward()),
        |(setting, start, events), seen| {
            // What the latest answer from Redis was about: the cache knows no other denial of this key.
            let mut asked_last = None;
            let judge = |asked: &Asked, expected: &Reported, actual: Reported| {
                if !asked.at_once {
                    asked_last = Some(asked.cost.clone());
                    prop_assert_eq!(expected, &actual);
                    return Ok(());
                }
                let known = asked_last.as_ref().expect("something was refused");
                let is_same = *known == asked.cost;
                seen.note(if is_same {
                    "known"
                } else {
                    "known of a lower cost"
                });
                prop_assert!(!actual.allowed && !expected.allowed);
                for (index, (ours, real)) in actual.quotas.iter().zip(&expected.quotas).enumerate()
                {
                    prop_assert!(ours.remaining() <= real.remaining(), "quota {}", index);
                    // The clock of a bucket that starts below its capacity has perhaps not begun: a look does not start
                    // it, nor does a cost that can never pass.
                    let resets = (ours.reset_after(), real.reset_after());
                    let runs = (1..=ours.limit()).contains(&asked.cost.get(index));
                    prop_assert!(resets.0 <= resets.1, "quota {}: {:?}", index, resets);
                    prop_assert!(
                        !runs || resets.0 == resets.1,
                        "quota {}: {:?}",
                        index,
                        resets
                    );
                    let never = asked.cost.get(index) > ours.limit();
                    prop_assert_eq!(ours.retry_after() == Some(RetryAfter::Never), never);
                    let waits = (wait(ours.retry_after()), wait(real.retry_after()));
                    // The known wait of the lower cost was rounded up, and so is the time for the difference.
                    let latest = waits.1.saturating_add(Duration::from_micros(1));
                    prop_assert!(waits.0 <= latest, "quota {}: {:?}", index, waits);
                    prop_assert!(
                        !is_same || waits.0 == waits.1,
                        "quota {}: {:?}",
                        index,
                        waits
                    );
                }
                prop_assert!(!is_same || actual.governing == expected.governing);
                Ok(())
            };
            let backends = (stand.core(), redis.clone());
            stand.compare(backends, &setting, start, &events, seen, judge)
        },
    );
    seen.at_least(15, &["known", "known of a lower cost"]);
}

fn wait(retry: Option<RetryAfter>) -> Duration {
    match retry {
        None => Duration::ZERO,
        Some(RetryAfter::In(wait)) => wait,
        Some(RetryAfter::Never) => Duration::MAX,
    }
}

/// One of them in each of these: no script and no place in a batch is alike.
fn kinds_of_policies() -> Vec<Policy> {
    let minute = Duration::from_secs(60);
    let (bucket, interval) = (
        Quota::per_second(3).burst(5),
        Quota::interval_bucket(7, 2, minute),
    );
    let (fixed, sliding, log) = (
        Quota::fixed_window(4, minute),
        Quota::sliding_window(4, minute),
        Quota::sliding_log(4, minute),
    );
    let single = [bucket, interval, fixed, sliding, log];
    let mut policies: Vec<_> = single
        .iter()
        .enumerate()
        .map(|(index, quota)| Policy::new(&format!("single{index}"), *quota))
        .collect();
    policies.push(Policy::new("slow", Quota::per_minute(2).initial_tokens(1)));
    policies.push(Policy::new("buckets", bucket).and("interval", interval));
    policies.push(
        Policy::new("mixed", fixed)
            .and("log", log)
            .and("bucket", bucket),
    );
    policies
}

/// What is asked of a key in one round.
#[derive(Clone, Debug)]
struct Question {
    policy: Index,
    cost: u64,
    act: Act,
}

fn question() -> impl Strategy<Value = Question> {
    (any::<Index>(), 0..=6_u64, act()).prop_map(|(policy, cost, act)| Question {
        policy,
        cost,
        act,
    })
}

/// A key in two backends.
struct Twins {
    policy: Policy,
    key: Key,
    alone: Side<RedisBackend>,
    together: Side<RedisBackend>,
}

#[test]
fn batched_requests_get_the_same_replies_as_single_requests() {
    let stand = Stand::new();
    let with = |prefix: &str, batching: bool| {
        let builder = Stand::builder().prefix(prefix).batching(batching);
        builder.from_connection(stand.frozen())
    };
    let (alone, together) = (with("alone", false), with("together", true));
    let policies = kinds_of_policies();
    // In each round a question of its own for every key; the key stays of one policy.
    let rounds = vec(vec(question(), 1..120), 1..6);
    let calls = Cell::new(0);
    let seen = for_some((rounds, start()), |(rounds, mut now), seen| {
        let mut keys: Vec<Twins> = Vec::new();
        for round in &rounds {
            now += 300_000;
            stand.clock.set(Timestamp::from_micros(now));
            for question in round.iter().skip(keys.len()) {
                keys.push(Twins {
                    policy: question.policy.get(&policies).clone(),
                    key: stand.fresh_key(),
                    alone: Side::of(alone.clone()),
                    together: Side::of(together.clone()),
                });
            }
            let (mut expected, mut asked) = (Vec::new(), Vec::new());
            for (question, twins) in round.iter().zip(&mut keys) {
                let cost = || Cost::new(question.cost);
                let ops = (
                    twins.alone.op(&question.act, cost(), 4_000_000),
                    twins.together.op(&question.act, cost(), 4_000_000),
                );
                let (Some(one), Some(other)) = ops else {
                    continue;
                };
                let answer = twins.alone.ask(one, &twins.policy, &twins.key);
                let (reported, _) = stand.runtime.block_on(answer);
                seen.note(if reported.allowed {
                    "allowed"
                } else {
                    "refused"
                });
                expected.push(reported);
                asked.push(twins.together.ask(other, &twins.policy, &twins.key));
            }
            calls.set(calls.get() + asked.len());
            let actual: Vec<_> = stand.runtime.block_on(join_all(asked));
            let actual: Vec<_> = actual.into_iter().map(|(reported, _)| reported).collect();
            prop_assert_eq!(expected, actual);
        }
        Ok(())
    });
    seen.at_least(1_000, &["allowed", "refused"]);
    let calls = u64::try_from(calls.get()).expect("fits");
    let trips = stand.server.calls("evalsha") + stand.server.calls("eval") - calls;
    assert!(
        2 * trips < calls,
        "{trips} trips for {calls} questions are no batches"
    );
}

#[test]
fn optimistic_mode_decides_like_scripts() {
    let stand = Stand::new();
    let proxy = ClockProxy::to(stand.server.port(), &stand.clock);
    let proxy = stand.runtime.block_on(proxy);
    let scripts = Stand::builder().from_connection(stand.frozen());
    let optimistic = Stand::builder()
        .prefix("optimistic")
        .atomicity(Atomicity::Optimistic)
        .connect_lazy(proxy.url())
        .expect("a URL");
    let seen = for_some(
        (settings_of_strings(), start(), traffic()),
        |(setting, start, events), seen| {
            let backends = (scripts.clone(), optimistic.clone());
            stand.compare(backends, &setting, start, &events, seen, same)
        },
    );
    seen.at_least(20, EVERYTHING);
    seen.at_least(4, RARE);
}

/// What can be kept without scripts.
fn settings_of_strings() -> impl Strategy<Value = Setting> {
    prop_oneof![
        2 => setting(STRINGS, 1),
        2 => setting(STRINGS, 4),
        1 => setting(BUCKETS, 3),
    ]
}

// -- Expiry as it is in production

/// Runs the traffic on a Redis whose keys expire by its own rule, not by an endless `idle_ttl`.
///
/// With one quota of each name nothing that is forgotten changes an answer. With several the core would know what a
/// faster quota has forgotten: then keys stay, and what each write sets is checked.
fn expiry_is_invisible(
    stand: &Stand,
    backend: &RedisBackend,
    (setting, start, mut events, forgets): (Setting, u64, Vec<Event>, bool),
    seen: &Seen,
) -> TestCaseResult {
    let starts_full = |quota: &Quota| !quota.to_string().contains("(initially");
    let mut quotas = setting.limits.iter().flatten().map(|limit| limit.quota);
    let forgets = forgets && quotas.all(|quota| starts_full(&quota));
    if forgets {
        seen.note("keys expire");
        for event in &mut events {
            event.other_numbers = false;
            // What is forgotten cannot be given back, and what is known and paid can: for no later answer a difference.
            if matches!(event.act, Act::Cancel(_)) {
                event.act = Act::Check;
            }
        }
    }
    let url = stand.server.url();
    let redis = Expiring::new(&url, backend.clone(), &stand.clock, forgets);
    stand.compare((stand.core(), redis), &setting, start, &events, seen, same)
}

#[test]
fn no_write_shortens_an_expiry_and_none_is_too_short() {
    let stand = Stand::new();
    let redis = RedisBackend::builder()
        .deny_cache(Duration::ZERO)
        .time_limit(Duration::from_secs(20))
        .from_connection(stand.frozen());
    let settings = prop_oneof![2 => settings(), 1 => setting(BUCKETS, 1)];
    let seen = for_some(
        (settings, start(), forward(), any::<bool>()),
        |case, seen| expiry_is_invisible(&stand, &redis, case, seen),
    );
    seen.at_least(20, &["keys expire", "reconfigured", "penalty", "refund"]);
    seen.at_least(10, &["cancel", "a turn to come"]);
}

#[test]
fn no_write_without_scripts_shortens_an_expiry_and_none_is_too_short() {
    let stand = Stand::new();
    let proxy = ClockProxy::to(stand.server.port(), &stand.clock);
    let proxy = stand.runtime.block_on(proxy);
    let redis = RedisBackend::builder()
        .deny_cache(Duration::ZERO)
        .time_limit(Duration::from_secs(20))
        .atomicity(Atomicity::Optimistic)
        .connect_lazy(proxy.url())
        .expect("a URL");
    let cases = (settings_of_strings(), start(), forward(), any::<bool>());
    let seen = for_some(cases, |case, seen| {
        expiry_is_invisible(&stand, &redis, case, seen)
    });
    seen.at_least(20, &["keys expire", "reconfigured", "penalty", "refund"]);
    seen.at_least(10, &["cancel", "a turn to come"]);
}
