//! The memory backend decides like the algorithms.

use std::fmt::Debug;
use std::num::NonZeroUsize;
use std::time::Duration;

use futures_util::FutureExt;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use tower_sluice::clock::{ManualClock, Timestamp};
use tower_sluice::decision::Receipt;
use tower_sluice::{Cost, Key, Limiter, MemoryBackend, Policy, Quota};

use crate::for_all;
use crate::model::{Core, one};
use crate::property::Coverage;
use crate::shapes::{KINDS, Kind, Shape, small_shape};
use crate::traffic::{Event, TODAY, event, start};

#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    Check,
    Penalize,
    Refund(prop::sample::Index),
    Reset,
}

#[derive(Clone, Debug)]
struct Request {
    key: usize,
    event: Event,
    op: Op,
    /// Other numbers for the quota, of the same identity.
    numbers: Option<(u64, u64, u64)>,
}

fn request(keys: usize) -> impl Strategy<Value = Request> {
    let op = prop_oneof![
        12 => Just(Op::Check),
        2 => Just(Op::Penalize),
        4 => any::<prop::sample::Index>().prop_map(Op::Refund),
        1 => Just(Op::Reset),
    ];
    let numbers = proptest::option::weighted(0.15, (1..=20_u64, 1..=20_u64, 1..=5_000_u64));
    (0..keys, event(), op, numbers).prop_map(|(key, event, op, numbers)| Request {
        key,
        event,
        op,
        numbers,
    })
}

/// The memory backend, and the algorithms with a state for each key. Every operation runs on both.
struct BackendPair {
    clock: ManualClock,
    limiter: Limiter<MemoryBackend<ManualClock>>,
    cores: Vec<(Core, Vec<[Receipt; 2]>)>,
    shape: Shape,
}

impl BackendPair {
    fn of(shape: Shape, keys: usize, start: u64) -> Self {
        let clock = ManualClock::at(Timestamp::from_micros(start));
        let backend = MemoryBackend::builder().clock(clock.clone()).build();
        let core = Core::of(&[shape]);
        Self {
            limiter: Limiter::new(core.policy.clone(), backend),
            cores: (0..keys).map(|_| (core.clone(), Vec::new())).collect(),
            clock,
            shape,
        }
    }

    fn reconfigure(&mut self, (limit, refill, span): (u64, u64, u64)) {
        // A full bucket stays full. A bucket that owes nothing is forgotten, and only initial tokens would show it.
        let full = self.shape.initial == self.shape.limit;
        self.shape.limit = limit;
        self.shape.initial = if full {
            limit
        } else {
            self.shape.initial.min(limit)
        };
        // The span of a window is part of its identity.
        match self.shape.kind {
            Kind::Bucket | Kind::IntervalBucket => {
                (self.shape.refill, self.shape.span) = (refill, span);
            }
            _ => self.shape.refill = refill,
        }
        let policy = Core::of(&[self.shape]).policy;
        self.limiter = self.limiter.with_policy(&policy);
        for (core, _) in &mut self.cores {
            core.policy = policy.clone();
        }
    }

    fn operation(&mut self, request: &Request, now: u64, coverage: &Coverage) -> TestCaseResult {
        self.clock.set(Timestamp::from_micros(now));
        let cost = request.event.spend.of(self.shape.limit);
        let key = Key::from(u64::try_from(request.key).expect("fits"));
        let (core, receipts) = &mut self.cores[request.key];
        let at_once = "memory answers at once";
        let (memory, own) = match request.op {
            Op::Check => {
                let Ok(memory) = self
                    .limiter
                    .check(&key, cost)
                    .now_or_never()
                    .expect(at_once);
                let own = core.check(now, cost);
                prop_assert_eq!(&memory.decision, &own.decision);
                coverage.note(if own.decision.is_allowed() {
                    "allowed"
                } else {
                    "denied"
                });
                receipts.extend(memory.receipt.zip(own.receipt).map(<[_; 2]>::from));
                return Ok(());
            }
            Op::Penalize => {
                let Ok(memory) = self
                    .limiter
                    .penalize(&key, cost)
                    .now_or_never()
                    .expect(at_once);
                (memory, one(&core.penalize(now, cost)))
            }
            Op::Refund(_) if receipts.is_empty() => return Ok(()),
            Op::Refund(index) => {
                let [memory, own] = index.get_mut(receipts);
                let refund = self.limiter.refund(&key, memory, cost);
                let Ok(refunded) = refund.now_or_never().expect(at_once);
                let taken = own.take(Cost::new(cost));
                prop_assert_eq!(memory.tokens(), own.tokens());
                coverage.note("refunded");
                (refunded, core.refund(now, &taken))
            }
            Op::Reset => {
                let Ok(memory) = self.limiter.reset(&key).now_or_never().expect(at_once);
                (memory, core.reset(now))
            }
        };
        prop_assert_eq!(memory.quotas(), &[own]);
        Ok(())
    }
}

/// A single key is never swept: it decides alike after a change of its numbers and a step back of its clock.
#[test]
fn memory_decides_as_the_core_for_every_operation() {
    let coverage = for_all(
        (small_shape(KINDS, true), start(), vec(request(1), 1..100)),
        |(mut shape, start, traffic), coverage| {
            shape.span = shape.span.min(5_000);
            let (mut pair, mut latest) = (BackendPair::of(shape, 1, start), start);
            for request in traffic {
                if let Some(numbers) = request.numbers {
                    pair.reconfigure(numbers);
                    coverage.note("reconfigured");
                }
                latest = request
                    .event
                    .step
                    .from(latest, &pair.shape)
                    .min(Timestamp::MAX.as_micros());
                let lag = pair.shape.horizon() * 2 * request.event.back / 255;
                pair.operation(&request, latest.saturating_sub(lag), coverage)?;
            }
            Ok(())
        },
    );
    coverage.at_least(100, &["allowed", "denied", "refunded", "reconfigured"]);
}

/// Keys that owe nothing are swept meanwhile, which no decision shows.
#[test]
fn memory_decides_as_the_core_while_it_sweeps() {
    const KEYS: usize = 40;
    let coverage = for_all(
        (
            small_shape(KINDS, true),
            start(),
            vec(request(KEYS), 20..100),
        ),
        |(mut shape, start, traffic), coverage| {
            shape.span = shape.span.max(50_000);
            let (mut pair, mut now) = (BackendPair::of(shape, KEYS, start), start);
            for request in &traffic {
                now = request
                    .event
                    .step
                    .from(now, &shape)
                    .min(Timestamp::MAX.as_micros());
                pair.operation(request, now, coverage)?;
            }
            let known = pair
                .cores
                .iter()
                .filter(|(core, _)| core.states[0].is_some())
                .count();
            let kept = pair.limiter.backend().len();
            prop_assert!(kept <= known, "{} kept of {}", kept, known);
            if kept < known {
                coverage.note("swept");
            }
            Ok(())
        },
    );
    coverage.at_least(5, &["swept"]);
    coverage.at_least(100, &["allowed", "denied", "refunded"]);
}

#[test]
fn peek_does_not_extend_expiry() {
    const HOUR: Duration = Duration::from_secs(3_600);
    let clock = ManualClock::at(Timestamp::from_micros(TODAY));
    let backend = MemoryBackend::builder().clock(clock.clone()).idle_ttl(HOUR);
    let policy = Policy::new("idle", Quota::per_second(10).initial_tokens(2));
    let (limiter, key) = (Limiter::new(policy, backend.build()), Key::from("ann"));
    assert!(limiter.check_now(&key, 1).decision.is_allowed());
    for _ in 0..2 {
        clock.advance(HOUR / 2);
        let _ = limiter.check_now(&key, 0);
        assert!(!limiter.check_now(&key, 11).decision.is_allowed());
    }
    clock.advance(HOUR / 2);
    // It has expired. Its first check creates it again with 2 tokens, even if it is denied.
    assert!(!limiter.check_now(&key, 10).decision.is_allowed());
    clock.advance(Duration::from_millis(800));
    assert!(limiter.check_now(&key, 10).decision.is_allowed());
}

#[test]
fn peek_by_another_tier_does_not_shorten_expiry() {
    let clock = ManualClock::at(Timestamp::from_micros(TODAY));
    // One shard, so that every new key sweeps past the old one.
    let backend = MemoryBackend::builder().max_keys(NonZeroUsize::new(100).expect("not 0"));
    let backend = backend.clock(clock.clone()).build();
    let limiter = Limiter::new(Policy::new("tiers", Quota::per_hour(10)), backend);
    let faster = limiter.with_policy(&Policy::new("tiers", Quota::per_second(1_000)));
    let key = Key::from("ann");
    assert!(limiter.check_now(&key, 10).decision.is_allowed());
    assert!(faster.check_now(&key, 0).decision.is_allowed());
    assert!(!faster.check_now(&key, 1_001).decision.is_allowed());
    clock.advance(Duration::from_secs(1));
    for other in 0..10 {
        let _ = limiter.check_now(&Key::from(other), 1);
    }
    assert!(!limiter.check_now(&key, 1).decision.is_allowed());
}
