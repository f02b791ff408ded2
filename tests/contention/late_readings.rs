//! An operation whose thread is held between the clock reading and the lock decides like one that started at the lock.
//! It leaves the same state.

use std::num::NonZeroUsize;
use std::time::Duration;

use tower_sluice::backend::{Answer, Backend, Op, Reply};
use tower_sluice::{Cost, Decision, Key, MemoryBackend, Policy, Quota};

use crate::held_clock::HeldClock;

const HORIZON: Duration = Duration::from_secs(1);
const LIMIT: u64 = 10;

/// The five algorithms, and several quotas at once. Each one recovers within [`HORIZON`].
fn policies() -> Vec<(&'static str, Policy)> {
    let quotas = [
        ("token_bucket", Quota::token_bucket(LIMIT, LIMIT, HORIZON)),
        (
            "interval_bucket",
            Quota::interval_bucket(LIMIT, LIMIT, HORIZON),
        ),
        ("fixed_window", Quota::fixed_window(LIMIT, HORIZON)),
        ("sliding_window", Quota::sliding_window(LIMIT, HORIZON)),
        ("sliding_log", Quota::sliding_log(LIMIT, HORIZON)),
    ];
    let several = quotas[1..]
        .iter()
        .fold(Policy::new("p", quotas[0].1), |policy, (name, quota)| {
            policy.and(name, *quota)
        });
    let single = quotas.map(|(name, quota)| (name, Policy::new("p", quota)));
    let buckets = Policy::new("p", Quota::token_bucket(LIMIT, LIMIT, HORIZON))
        .and("interval", Quota::interval_bucket(LIMIT, LIMIT, HORIZON));
    single
        .into_iter()
        .chain([("several", several), ("buckets", buckets)])
        .collect()
}

/// The operations. Some undo an earlier charge.
const OPS: [&str; 7] = [
    "check", "peek", "reserve", "cancel", "penalty", "refund", "reset",
];

/// An event while the thread is held.
const MEANWHILE: [&str; 6] = [
    "nothing",
    "charged within the horizon",
    "charged beyond the horizon",
    "penalized beyond the horizon",
    "swept",
    "evicted",
];

struct Fixture {
    clock: HeldClock,
    backend: MemoryBackend<HeldClock>,
    policy: Policy,
}

impl Fixture {
    fn new(policy: &Policy) -> Self {
        let clock = HeldClock::new();
        // One shard, so that other keys sweep and evict.
        let max_keys = NonZeroUsize::new(2 * policy.quotas().len()).expect("not 0");
        let backend = MemoryBackend::builder()
            .max_keys(max_keys)
            .clock(clock.clone())
            .build();
        let policy = policy.clone();
        Self {
            clock,
            backend,
            policy,
        }
    }

    fn ask_of(&self, key: &str, op: Op) -> Reply {
        match self.backend.ask(op, &self.policy, &Key::from(key)) {
            Answer::Now(Ok(reply)) => reply,
            _ => unreachable!("memory answers at once and cannot fail"),
        }
    }

    fn ask(&self, op: Op) -> Reply {
        self.ask_of("ann", op)
    }

    fn check(&self, cost: u64) -> Reply {
        self.ask(Op::Check(Cost::new(cost)))
    }

    /// The operation that will be late, after its preparations.
    fn prepared(&self, op: &str) -> Op {
        let reserve = |max_wait| Op::Reserve {
            cost: Cost::new(3),
            max_wait,
        };
        match op {
            "check" => Op::Check(Cost::new(7)),
            "peek" => Op::Check(Cost::new(0)),
            "reserve" => reserve(HORIZON),
            "cancel" => match self.ask(reserve(HORIZON)).reservation {
                Some(reservation) => Op::Cancel(reservation),
                // Windows have no reservations.
                None => Op::Check(Cost::new(1)),
            },
            "penalty" => Op::Penalize(Cost::new(4)),
            "refund" => Op::Refund(self.check(3).receipt.expect("allowed")),
            "reset" => Op::Reset,
            _ => unreachable!("{op}"),
        }
    }

    fn go_through(&self, meanwhile: &str) {
        match meanwhile {
            "nothing" => {}
            "charged within the horizon" => {
                self.clock.advance(HORIZON / 2);
                let _ = self.check(5);
            }
            "charged beyond the horizon" => {
                self.clock.advance(3 * HORIZON + HORIZON / 4);
                assert!(self.check(LIMIT).decision.is_allowed());
            }
            "penalized beyond the horizon" => {
                self.clock.advance(3 * HORIZON + HORIZON / 4);
                let _ = self.ask(Op::Penalize(Cost::new(2 * LIMIT)));
            }
            "swept" => {
                self.clock.advance(3 * HORIZON);
                assert!(self.check(LIMIT).decision.is_allowed());
                self.clock.advance(3 * HORIZON + HORIZON / 4);
                self.displace();
            }
            "evicted" => {
                self.clock.advance(3 * HORIZON + HORIZON / 4);
                assert!(self.check(1).decision.is_allowed());
                self.displace();
            }
            _ => unreachable!("{meanwhile}"),
        }
    }

    /// Adds other keys until this one is evicted.
    fn displace(&self) {
        for other in ["bob", "cid", "dan", "eve"] {
            let _ = self.ask_of(other, Op::Check(Cost::new(LIMIT)));
        }
        let left = self.check(0).decision.snapshot().remaining();
        assert_eq!(left, LIMIT, "the key was evicted");
    }

    /// The decisions of the state from now on.
    fn answers(&self) -> Vec<Decision> {
        let mut answers = Vec::new();
        for _ in 0..8 {
            for cost in [0, LIMIT, 3, 1] {
                answers.push(self.check(cost).decision);
            }
            self.clock.advance(HORIZON / 3);
        }
        answers
    }
}

#[test]
fn late_reading_decides_like_a_reading_at_the_lock() {
    let mut differ = Vec::new();
    for (algorithm, policy) in policies() {
        for name in OPS {
            for meanwhile in MEANWHILE {
                let run = |is_late: bool| {
                    let fixture = Fixture::new(&policy);
                    let op = fixture.prepared(name);
                    let reply = if is_late {
                        let (clock, late) = (&fixture.clock, || fixture.ask(op));
                        clock.late(late, || fixture.go_through(meanwhile))
                    } else {
                        fixture.go_through(meanwhile);
                        fixture.ask(op)
                    };
                    (
                        (reply.decision, reply.wait, reply.returned),
                        fixture.answers(),
                    )
                };
                if run(true) != run(false) {
                    differ.push(format!("{algorithm}, {name}, {meanwhile}"));
                }
            }
        }
    }
    assert!(
        differ.is_empty(),
        "{} differ:\n{}",
        differ.len(),
        differ.join("\n")
    );
}

/// The clock moves back between two operations, and no thread is late: the second reading shows the same.
#[test]
fn clock_step_back_moves_the_debt() {
    use tower_sluice::clock::{Clock, ManualClock, Timestamp};

    let clock = ManualClock::at(Timestamp::from_micros(1_800_000_000_000_000));
    let backend = MemoryBackend::builder().clock(clock.clone()).build();
    let policy = Policy::new("p", Quota::token_bucket(LIMIT, LIMIT, HORIZON));
    let check = |cost| match backend.ask(Op::Check(Cost::new(cost)), &policy, &Key::from("ann")) {
        Answer::Now(Ok(reply)) => reply.decision,
        _ => unreachable!("memory answers at once and cannot fail"),
    };
    assert!(check(LIMIT).is_allowed());
    let before = clock.now().as_micros();
    clock.set(Timestamp::from_micros(before - 5_000_000));
    assert!(!check(1).is_allowed(), "the debt moves with the clock");
    clock.advance(HORIZON / 2);
    assert_eq!(
        check(0).snapshot().remaining(),
        LIMIT / 2,
        "the debt is paid from the new time on"
    );
}

#[cfg(feature = "blocking")]
#[test]
fn late_blocking_limiter_admits_no_excess() {
    use tower_sluice::blocking::Limiter;

    let fixture = Fixture::new(&policies()[0].1);
    let limiter = Limiter::new(fixture.policy.clone(), fixture.backend.clone());
    let ann = Key::from("ann");
    let late = || {
        limiter
            .check(&ann, LIMIT)
            .map(|reply| reply.decision.is_allowed())
    };
    let meanwhile = || fixture.go_through("charged beyond the horizon");
    assert_eq!(fixture.clock.late(late, meanwhile), Ok(false));
    assert!(
        !fixture.check(1).decision.is_allowed(),
        "a token was refilled"
    );
}
