//! The subjects that run the steps of a vector: the algorithms, or a backend through a limiter.

use std::time::Duration;

use tokio::runtime::Runtime;
use tower_sluice::algorithm::{self, State};
use tower_sluice::backend::{Answer, Backend, Op, Reply};
#[cfg(feature = "blocking")]
use tower_sluice::blocking;
use tower_sluice::clock::{ManualClock, Timestamp};
use tower_sluice::decision::{QuotaSnapshot, Receipt};
use tower_sluice::{Cost, Key, Limiter, MemoryBackend, Policy, Reservation, Snapshot};

/// Runs the steps of a vector, on one new key.
pub(crate) trait Subject {
    fn check(&mut self, policy: &Policy, now: Timestamp, cost: Cost) -> Reply;
    fn reserve(&mut self, policy: &Policy, now: Timestamp, cost: Cost, max_wait: Duration)
    -> Reply;
    /// The reservation, if its charge was not refunded. A peek afterwards shows the rest.
    fn cancel(
        &mut self,
        policy: &Policy,
        now: Timestamp,
        reservation: Reservation,
    ) -> Option<Reservation>;
    fn penalize(&mut self, policy: &Policy, now: Timestamp, cost: Cost) -> Vec<QuotaSnapshot>;
    fn refund(
        &mut self,
        policy: &Policy,
        now: Timestamp,
        receipt: &mut Receipt,
        cost: Cost,
    ) -> Vec<QuotaSnapshot>;
    fn reset(&mut self, policy: &Policy, now: Timestamp) -> Vec<QuotaSnapshot>;
}

pub(crate) struct Core(Vec<Option<State>>);

impl Core {
    pub(crate) fn of(policy: &Policy) -> Self {
        Self(vec![None; policy.quotas().len()])
    }
}

fn quotas(reply: &Reply) -> Vec<QuotaSnapshot> {
    reply.decision.snapshot().quotas().to_vec()
}

impl Subject for Core {
    fn check(&mut self, policy: &Policy, now: Timestamp, cost: Cost) -> Reply {
        algorithm::check(policy, &mut self.0, now, cost)
    }

    fn reserve(
        &mut self,
        policy: &Policy,
        now: Timestamp,
        cost: Cost,
        max_wait: Duration,
    ) -> Reply {
        algorithm::reserve(policy, &mut self.0, now, cost, max_wait)
    }

    fn cancel(
        &mut self,
        policy: &Policy,
        now: Timestamp,
        reservation: Reservation,
    ) -> Option<Reservation> {
        let returned = algorithm::cancel(policy, &mut self.0, now, &reservation).returned;
        (!returned).then_some(reservation)
    }

    fn penalize(&mut self, policy: &Policy, now: Timestamp, cost: Cost) -> Vec<QuotaSnapshot> {
        quotas(&algorithm::penalize(policy, &mut self.0, now, cost))
    }

    fn refund(
        &mut self,
        policy: &Policy,
        now: Timestamp,
        receipt: &mut Receipt,
        cost: Cost,
    ) -> Vec<QuotaSnapshot> {
        quotas(&algorithm::refund(
            policy,
            &mut self.0,
            now,
            &receipt.take(cost),
        ))
    }

    fn reset(&mut self, policy: &Policy, now: Timestamp) -> Vec<QuotaSnapshot> {
        quotas(&algorithm::reset(policy, &mut self.0, now))
    }
}

/// A backend with a manual clock.
pub(crate) struct Through<'a, B> {
    pub(crate) runtime: &'a Runtime,
    pub(crate) backend: B,
    pub(crate) clock: ManualClock,
    pub(crate) key: Key,
}

impl<B: Backend> Through<'_, B> {
    fn at<T>(
        &self,
        policy: &Policy,
        now: Timestamp,
        op: impl AsyncFnOnce(&Limiter<B>, &Key) -> Result<T, B::Error>,
    ) -> T {
        self.clock.set(now);
        let limiter = Limiter::new(policy.clone(), self.backend.clone());
        self.runtime
            .block_on(op(&limiter, &self.key))
            .unwrap_or_else(|error| {
                panic!(
                    "{error}: {:?}",
                    std::error::Error::source(&error).map(ToString::to_string)
                )
            })
    }
}

/// The reservation whose charge was not refunded.
fn kept(reply: Reply) -> Option<Reservation> {
    assert_eq!(reply.reservation.is_none(), reply.returned);
    reply.reservation
}

fn own(snapshot: Snapshot) -> Vec<QuotaSnapshot> {
    snapshot.quotas().to_vec()
}

impl<B: Backend> Subject for Through<'_, B> {
    fn check(&mut self, policy: &Policy, now: Timestamp, cost: Cost) -> Reply {
        self.at(policy, now, async |limiter, key| {
            limiter.check(key, cost).await
        })
    }

    fn reserve(
        &mut self,
        policy: &Policy,
        now: Timestamp,
        cost: Cost,
        max_wait: Duration,
    ) -> Reply {
        self.at(policy, now, async |limiter, key| {
            limiter.reserve(key, cost, max_wait).await
        })
    }

    // Sent to the backend directly: a limiter repeats other cancels by itself.
    fn cancel(
        &mut self,
        policy: &Policy,
        now: Timestamp,
        reservation: Reservation,
    ) -> Option<Reservation> {
        let reply = self.at(policy, now, async |limiter, key| {
            let op = Op::Cancel(reservation);
            match limiter.backend().ask(op, policy, key) {
                Answer::Now(reply) => reply,
                Answer::Later(reply) => reply.await,
            }
        });
        kept(reply)
    }

    fn penalize(&mut self, policy: &Policy, now: Timestamp, cost: Cost) -> Vec<QuotaSnapshot> {
        own(self.at(policy, now, async |limiter, key| {
            limiter.penalize(key, cost).await
        }))
    }

    fn refund(
        &mut self,
        policy: &Policy,
        now: Timestamp,
        receipt: &mut Receipt,
        cost: Cost,
    ) -> Vec<QuotaSnapshot> {
        own(self.at(policy, now, async |limiter, key| {
            limiter.refund(key, receipt, cost).await
        }))
    }

    fn reset(&mut self, policy: &Policy, now: Timestamp) -> Vec<QuotaSnapshot> {
        own(self.at(policy, now, async |limiter, key| limiter.reset(key).await))
    }
}

/// A backend for plain threads, with a manual clock.
#[cfg(feature = "blocking")]
pub(crate) struct Threads<B> {
    pub(crate) backend: B,
    pub(crate) clock: ManualClock,
    pub(crate) key: Key,
}

#[cfg(feature = "blocking")]
impl<B: blocking::BlockingBackend> Threads<B> {
    fn at<T>(
        &self,
        policy: &Policy,
        now: Timestamp,
        op: impl FnOnce(&blocking::Limiter<B>, &Key) -> Result<T, B::Error>,
    ) -> T {
        self.clock.set(now);
        let limiter = blocking::Limiter::new(policy.clone(), self.backend.clone());
        op(&limiter, &self.key).unwrap_or_else(|error| panic!("{error}: {error:?}"))
    }
}

#[cfg(feature = "blocking")]
impl<B: blocking::BlockingBackend> Subject for Threads<B> {
    fn check(&mut self, policy: &Policy, now: Timestamp, cost: Cost) -> Reply {
        self.at(policy, now, |limiter, key| limiter.check(key, cost))
    }

    fn reserve(
        &mut self,
        policy: &Policy,
        now: Timestamp,
        cost: Cost,
        max_wait: Duration,
    ) -> Reply {
        self.at(policy, now, |limiter, key| {
            limiter.reserve(key, cost, max_wait)
        })
    }

    fn cancel(
        &mut self,
        policy: &Policy,
        now: Timestamp,
        reservation: Reservation,
    ) -> Option<Reservation> {
        let reply = self.at(policy, now, |limiter, key| {
            limiter.backend().ask(Op::Cancel(reservation), policy, key)
        });
        kept(reply)
    }

    fn penalize(&mut self, policy: &Policy, now: Timestamp, cost: Cost) -> Vec<QuotaSnapshot> {
        own(self.at(policy, now, |limiter, key| limiter.penalize(key, cost)))
    }

    fn refund(
        &mut self,
        policy: &Policy,
        now: Timestamp,
        receipt: &mut Receipt,
        cost: Cost,
    ) -> Vec<QuotaSnapshot> {
        own(self.at(policy, now, |limiter, key| {
            limiter.refund(key, receipt, cost)
        }))
    }

    fn reset(&mut self, policy: &Policy, now: Timestamp) -> Vec<QuotaSnapshot> {
        own(self.at(policy, now, |limiter, key| limiter.reset(key)))
    }
}

/// Subjects of one kind, one for each vector.
pub(crate) trait Subjects {
    const NAME: &str;
    fn next(&mut self, policy: &Policy) -> impl Subject + use<'_, Self>;
    /// Whether they support the policy.
    fn keeps(_: &Policy) -> bool {
        true
    }
}

pub(crate) struct Cores;

impl Subjects for Cores {
    const NAME: &str = "core";

    fn next(&mut self, policy: &Policy) -> impl Subject + use<'_> {
        Core::of(policy)
    }
}

pub(crate) struct Memories(pub(crate) Runtime);

impl Subjects for Memories {
    const NAME: &str = "memory";

    fn next(&mut self, _: &Policy) -> impl Subject + use<'_> {
        let clock = ManualClock::at(Timestamp::from_micros(0));
        Through {
            runtime: &self.0,
            backend: MemoryBackend::builder().clock(clock.clone()).build(),
            clock,
            key: Key::from("the key"),
        }
    }
}

#[cfg(feature = "blocking")]
pub(crate) struct BlockingMemories;

#[cfg(feature = "blocking")]
impl Subjects for BlockingMemories {
    const NAME: &str = "memory from plain threads";

    fn next(&mut self, _: &Policy) -> impl Subject + use<'_> {
        let clock = ManualClock::at(Timestamp::from_micros(0));
        Threads {
            backend: MemoryBackend::builder().clock(clock.clone()).build(),
            clock,
            key: Key::from("the key"),
        }
    }
}

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}
