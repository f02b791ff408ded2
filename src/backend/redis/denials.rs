//! Keys that are known to be refused: an attack on one key must not become an attack on Redis.
//!
//! A refusal stays right until its `retry_after`, unless another server refunds, resets or raises the limit meanwhile; so it is
//! believed for a second at most. Nothing is ever allowed from here.

use parking_lot::Mutex;

use crate::clock::Timestamp;
use crate::decision::{Decision, Reply, Snapshot};
use crate::key::Key;
use crate::policy::Policy;
use crate::quota::Cost;

use super::super::fingerprint::{Fingerprint, Fingerprints};
use super::quotas::Quotas;

/// Places for refusals. Two keys of one place displace each other, which costs a question to Redis.
const PLACES: usize = 1 << 13;

pub(super) struct Denials {
    /// The longest time that a refusal is believed, µs.
    longest: u64,
    prints: Fingerprints,
    places: Box<[Mutex<Place>]>,
}

#[derive(Default)]
struct Place {
    /// Changes when something was done to a key of this place, so that an answer from before is not kept.
    epoch: u32,
    denial: Option<Box<Denial>>,
}

struct Denial {
    print: Fingerprint,
    policy: Policy,
    cost: Cost,
    /// It was decided in between. It is believed from the one on, and tells its spans from the other: nobody is refused for too
    /// long, nor told to come back too soon.
    asked: Timestamp,
    answered: Timestamp,
    until: Timestamp,
    snapshot: Snapshot,
}

/// Where an answer may be kept.
#[derive(Clone, Copy)]
pub(super) struct Ticket {
    print: Fingerprint,
    epoch: u32,
}

impl Denials {
    pub(super) fn new(longest: u64) -> Self {
        Self {
            longest,
            prints: Fingerprints::new(),
            places: (0..PLACES).map(|_| Mutex::default()).collect(),
        }
    }

    fn print(&self, policy: &Policy, key: &Key) -> Fingerprint {
        self.prints.of(key).under(Quotas::of(policy).name)
    }

    fn place(&self, print: Fingerprint) -> &Mutex<Place> {
        &self.places[print.shard(PLACES)]
    }

    /// The refusal of this request, if it is known; else where its answer may be kept.
    pub(super) fn find(
        &self,
        policy: &Policy,
        key: &Key,
        cost: &Cost,
        now: Timestamp,
    ) -> Result<Reply, Ticket> {
        let print = self.print(policy, key);
        let place = self.place(print).lock();
        if let Some(denial) = &place.denial
            && denial.print == print
            && denial.policy.is(policy)
            && (denial.asked..denial.until).contains(&now)
            && (0..policy.quotas().len()).all(|index| match denial.cost.of(index) {
                // That was a look. A first check starts the clock of a bucket, even if it is refused.
                0 => cost.of(index) == 0,
                known => cost.of(index) >= known,
            })
        {
            return Ok(denial.answer(cost, now));
        }
        let epoch = place.epoch;
        Err(Ticket { print, epoch })
    }

    /// Keeps the answer to a question of `asked`, which came at `answered`. One that charged ends what was known: its waits have become longer.
    pub(super) fn keep(
        &self,
        ticket: Ticket,
        policy: &Policy,
        cost: &Cost,
        asked: Timestamp,
        answered: impl FnOnce() -> Timestamp,
        decision: &Decision,
    ) {
        let Decision::Deny(snapshot, _) = decision else {
            if (0..policy.quotas().len()).any(|index| cost.of(index) > 0) {
                let mut place = self.place(ticket.print).lock();
                place.denial.take_if(|denial| denial.print == ticket.print);
            }
            return;
        };
        let wait = snapshot.governor().retry_after.min(self.longest);
        let until = Timestamp::from_micros(asked.as_micros().saturating_add(wait));
        let mut place = self.place(ticket.print).lock();
        if place.epoch == ticket.epoch {
            place.denial = Some(Box::new(Denial {
                print: ticket.print,
                policy: policy.clone(),
                cost: cost.clone(),
                asked,
                answered: answered(),
                until,
                snapshot: snapshot.clone(),
            }));
        }
    }

    /// Forgets a key that something else was done to than to check it, and answers that are still on their way.
    pub(super) fn forget(&self, policy: &Policy, key: &Key) {
        let print = self.print(policy, key);
        let mut place = self.place(print).lock();
        place.epoch = place.epoch.wrapping_add(1);
        place.denial = None;
    }
}

impl Denial {
    fn answer(&self, cost: &Cost, now: Timestamp) -> Reply {
        let passed = now.micros_since(self.answered);
        Reply::to_check(self.snapshot.aged(cost, passed), Default::default)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::decision::{QuotaSnapshot, RetryAfter};
    use crate::quota::Quota;

    const SECOND: u64 = 1_000_000;

    fn at(micros: u64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    fn refused(wait: u64) -> Decision {
        let wait = Some(RetryAfter::In(Duration::from_micros(wait)));
        Reply::of(&[QuotaSnapshot::new(10, 3, wait, Duration::from_secs(9))]).decision
    }

    struct Known {
        denials: Denials,
        policy: Policy,
        key: Key,
    }

    impl Known {
        fn new(wait: u64) -> Self {
            let known = Self {
                denials: Denials::new(SECOND),
                policy: Policy::new("p", Quota::per_second(10)),
                key: Key::from("ann"),
            };
            known.learn(Cost::new(5), wait);
            known
        }

        fn learn(&self, cost: Cost, wait: u64) {
            let Err(ticket) = self.denials.find(&self.policy, &self.key, &cost, at(100)) else {
                panic!("known already");
            };
            self.denials.keep(
                ticket,
                &self.policy,
                &cost,
                at(100),
                || at(100),
                &refused(wait),
            );
        }

        fn knows(&self, cost: u64, now: u64) -> Option<Reply> {
            self.denials
                .find(&self.policy, &self.key, &Cost::new(cost), at(now))
                .ok()
        }
    }

    #[test]
    fn a_refusal_is_known_for_its_wait_and_tells_what_is_left() {
        let known = Known::new(1_000);
        let reply = known.knows(5, 400).expect("known");
        assert_eq!(
            reply.decision.retry_after(),
            Some(RetryAfter::In(Duration::from_micros(700)))
        );
        assert_eq!(
            reply.decision.snapshot().reset_after(),
            Duration::from_micros(9 * SECOND - 300)
        );
        assert_eq!(reply.decision.snapshot().remaining(), 3);
        assert!(reply.receipt.is_none());
        assert!(known.knows(5, 1_099).is_some());
        assert!(known.knows(5, 1_100).is_none(), "by then it may be allowed");
        assert!(
            known.knows(5, 99).is_none(),
            "nor is it believed if the clock went back"
        );
    }

    #[test]
    fn a_refusal_is_known_for_a_second_at_most_and_for_costs_as_high() {
        let known = Known::new(60 * SECOND);
        assert!(known.knows(9, 99 + SECOND).is_some());
        assert!(known.knows(5, 100 + SECOND).is_none());
        assert!(known.knows(4, 100).is_none(), "less may be allowed");
        let other = Policy::new("p", Quota::per_second(20));
        assert!(
            known
                .denials
                .find(&other, &known.key, &Cost::new(5), at(100))
                .is_err(),
            "a tier of its own"
        );
    }

    #[test]
    fn a_cost_above_the_limit_is_never_told_to_wait() {
        let reply = Known::new(1_000).knows(11, 400).expect("known");
        assert_eq!(reply.decision.retry_after(), Some(RetryAfter::Never));
    }

    #[test]
    fn a_quota_that_was_only_looked_at_is_asked_when_it_is_to_pay() {
        let known = Known::new(1_000);
        let policy = Policy::new("p", Quota::per_second(10)).and("bytes", Quota::per_second(10));
        let find = |costs: [u64; 2]| {
            let cost = Cost::each(costs);
            known.denials.find(&policy, &known.key, &cost, at(100))
        };
        let Err(ticket) = find([5, 0]) else {
            panic!("nothing is known of this policy");
        };
        let (cost, asked) = (Cost::each([5, 0]), at(100));
        known
            .denials
            .keep(ticket, &policy, &cost, asked, || asked, &refused(1_000));
        assert!(find([6, 0]).is_ok());
        assert!(find([6, 1]).is_err());
    }

    #[test]
    fn a_charge_ends_what_is_known() {
        let known = Known::new(1_000);
        let keep = |cost: u64| {
            let (key, cost) = (&known.key, Cost::new(cost));
            let Err(ticket) = known.denials.find(&known.policy, key, &cost, at(100)) else {
                panic!("less than what is known");
            };
            let some = QuotaSnapshot::new(10, 2, None, Duration::from_secs(10));
            let decision = Reply::of(&[some]).decision;
            known
                .denials
                .keep(ticket, &known.policy, &cost, at(100), || at(100), &decision);
        };
        keep(0);
        assert!(known.knows(5, 100).is_some(), "a look charges nothing");
        keep(1);
        assert!(known.knows(5, 100).is_none());
    }

    #[test]
    fn nobody_is_refused_for_too_long_nor_told_to_come_back_too_soon() {
        let known = Known::new(1_000);
        let (policy, cost) = (&known.policy, Cost::new(5));
        let other = Key::from("bob");
        let Err(ticket) = known.denials.find(policy, &other, &cost, at(100)) else {
            panic!("known already");
        };
        let answered = || at(150);
        known
            .denials
            .keep(ticket, policy, &cost, at(100), answered, &refused(1_000));
        let reply = known.denials.find(policy, &other, &cost, at(1_099));
        let wait = reply.ok().and_then(|reply| reply.decision.retry_after());
        assert_eq!(wait, Some(RetryAfter::In(Duration::from_micros(51))));
        assert!(
            known
                .denials
                .find(policy, &other, &cost, at(1_100))
                .is_err()
        );
    }

    #[test]
    fn what_was_asked_before_a_reset_is_not_kept_after_it() {
        let known = Known::new(SECOND);
        known.denials.forget(&known.policy, &known.key);
        assert!(known.knows(5, 100).is_none());
        let Err(ticket) = known
            .denials
            .find(&known.policy, &known.key, &Cost::new(5), at(100))
        else {
            panic!("forgotten");
        };
        known.denials.forget(&known.policy, &known.key);
        known.denials.keep(
            ticket,
            &known.policy,
            &Cost::new(5),
            at(100),
            || at(100),
            &refused(SECOND),
        );
        assert!(known.knows(5, 100).is_none());
    }
}
