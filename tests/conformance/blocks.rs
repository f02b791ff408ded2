//! Blocks of keys, and charges of as many tokens as there are, on every backend.

use std::time::Duration;

use tower_sluice::backend::{Answer, Backend, Op, Reply};
use tower_sluice::clock::{ManualClock, Timestamp};
use tower_sluice::decision::DenialReason;
use tower_sluice::{Cost, Key, Limiter, Policy, Quota, Receipt, RetryAfter};

use crate::subject::runtime;

const TODAY: u64 = 1_800_000_000_000_000;
const HOUR: Duration = Duration::from_secs(3_600);
const MICRO: Duration = Duration::from_micros(1);

/// A backend with the clock that it reads.
pub(crate) struct Subject<'a, B> {
    pub(crate) backend: &'a B,
    pub(crate) clock: &'a ManualClock,
    pub(crate) runtime: &'a tokio::runtime::Runtime,
    pub(crate) keeps_logs: bool,
}

impl<B: Backend> Subject<'_, B> {
    fn ask(&self, op: Op, policy: &Policy, key: &Key) -> Reply {
        let reply = match self.backend.ask(op, policy, key) {
            Answer::Now(reply) => reply,
            Answer::Later(reply) => self.runtime.block_on(reply),
        };
        reply.unwrap_or_else(|error| panic!("{error}: {error:?}"))
    }

    fn check(&self, policy: &Policy, key: &Key, cost: u64) -> Reply {
        self.ask(Op::Check(Cost::new(cost)), policy, key)
    }

    pub(crate) fn run(&self) {
        self.clock.set(Timestamp::from_micros(TODAY));
        self.block_denies_every_policy_of_the_name();
        self.charges_what_is_there();
        self.block_of_one_scope_denies_the_decision();
    }

    /// A policy of each algorithm, and two of several quotas, all of one name.
    fn policies(&self) -> Vec<Policy> {
        let policy = |quota| Policy::new("blocks", quota);
        let mut policies = vec![
            policy(Quota::per_hour(10)),
            policy(Quota::interval_bucket(10, 10, HOUR)),
            policy(Quota::fixed_window(10, HOUR)),
            policy(Quota::sliding_window(10, HOUR)),
            policy(Quota::total(10)),
            policy(Quota::per_hour(10)).and("slow", Quota::interval_bucket(12, 12, HOUR)),
            policy(Quota::per_hour(10)).and("once", Quota::total(12)),
        ];
        #[cfg(feature = "calendar")]
        policies.push(policy(Quota::calendar_window(
            10,
            tower_sluice::quota::Every::Day,
            "UTC",
        )));
        if self.keeps_logs {
            policies.push(policy(Quota::sliding_log(10, HOUR)));
        }
        policies
    }

    fn block_denies_every_policy_of_the_name(&self) {
        let policies = self.policies();
        let (ann, bob) = (Key::from("ann"), Key::from("bob"));
        let other = Policy::new("others", Quota::per_hour(10));
        for by in &policies {
            assert!(self.check(by, &ann, 2).decision.is_allowed());
            let before = self.check(by, &ann, 0).decision.snapshot().remaining();
            let _ = self.ask(Op::Block(HOUR / 2), by, &ann);
            for policy in &policies {
                for cost in [0, 1, 11] {
                    let decision = self.check(policy, &ann, cost).decision;
                    let wait = match cost {
                        11 => RetryAfter::Never,
                        _ => RetryAfter::In(HOUR / 2),
                    };
                    assert_eq!(decision.retry_after(), Some(wait), "{policy:?}");
                    assert_eq!(decision.denial_reason(), Some(DenialReason::Blocked));
                    assert_eq!(decision.snapshot().remaining(), 0);
                }
                let (cost, max_wait) = (Cost::ONE, 24 * HOUR);
                for op in [Op::Reserve { cost, max_wait }, Op::CheckUpTo(5)] {
                    let reply = self.ask(op, policy, &ann);
                    assert_eq!(reply.decision.denial_reason(), Some(DenialReason::Blocked));
                    assert!(reply.receipt.is_none() && reply.reservation.is_none());
                }
            }
            // Another key, and another name.
            assert!(self.check(by, &bob, 1).decision.is_allowed());
            assert!(self.check(&other, &ann, 1).decision.is_allowed());
            // A reset deletes the tokens and not the block.
            let _ = self.ask(Op::Reset, by, &bob);
            self.clock.advance(HOUR / 2 - MICRO);
            let last = self.check(by, &ann, 1).decision;
            assert_eq!(last.retry_after(), Some(RetryAfter::In(MICRO)));
            self.clock.advance(MICRO);
            // The denied requests were not charged.
            let after = self.check(by, &ann, 0).decision;
            assert!(after.snapshot().remaining() >= before, "{by:?}");
            // The block is shared, replaced by another one, and ended.
            let _ = self.ask(Op::Block(HOUR), by, &ann);
            let _ = self.ask(Op::Reset, by, &ann);
            let _ = self.ask(Op::Block(2 * MICRO), by, &ann);
            let replaced = self.check(by, &ann, 1).decision.retry_after();
            assert_eq!(replaced, Some(RetryAfter::In(2 * MICRO)));
            // A clock that goes back makes no block longer than it was.
            self.clock.set(Timestamp::from_micros(TODAY - 7_000_000));
            let back = self.check(by, &ann, 1).decision.retry_after();
            assert_eq!(back, Some(RetryAfter::In(2 * MICRO)));
            self.clock.set(Timestamp::from_micros(TODAY));
            let _ = self.ask(Op::Unblock, by, &ann);
            assert!(self.check(by, &ann, 1).decision.is_allowed());
            let _ = self.ask(Op::Reset, by, &ann);
            let _ = self.ask(Op::Reset, &other, &ann);
        }
        let limiter = Limiter::new(other, self.backend.clone());
        let blocked = async |duration: Duration| {
            limiter.block(&ann, duration).await.expect("an answer");
            limiter.is_blocked(&ann).await.expect("an answer")
        };
        assert!(self.runtime.block_on(blocked(Duration::MAX)));
        assert!(!self.runtime.block_on(blocked(Duration::ZERO)));
    }

    fn block_of_one_scope_denies_the_decision(&self) {
        let backend = || self.backend.clone();
        let limiter =
            |name, limit| Limiter::new(Policy::new(name, Quota::per_hour(limit)), backend());
        let (users, teams, orgs) = (limiter("user", 10), limiter("team", 20), limiter("org", 30));
        let off = limiter("team", 20).enabled(false);
        let [ann, red, acme] = ["ann", "red", "acme"].map(Key::from);
        let join = |teams: &Limiter<B>, cost| {
            let scopes = [
                users.scope(&ann, cost),
                teams.scope(&red, cost),
                orgs.scope(&acme, cost),
            ];
            let scopes = Limiter::all(scopes).expect("three scopes");
            scopes.hash_by_outermost()
        };
        let check = |teams: &Limiter<B>, cost| {
            let scopes = join(teams, cost);
            let reply = self.runtime.block_on(scopes.check()).expect("an answer");
            let denied_by = reply.decision.denied_by(scopes.policy());
            let denied_by: Vec<_> = denied_by.map(ToOwned::to_owned).collect();
            (reply.decision, denied_by)
        };
        let numbers = |decision: &tower_sluice::Decision| -> Vec<_> {
            let quotas = decision.snapshot().quotas().iter();
            quotas
                .map(|quota| (quota.remaining(), quota.retry_after()))
                .collect()
        };
        let (allowed, _) = check(&teams, 1);
        assert_eq!(numbers(&allowed), [(9, None), (19, None), (29, None)]);
        let red_in_acme = Limiter::all([teams.scope(&red, 1), orgs.scope(&acme, 1)]);
        let red_in_acme = red_in_acme.expect("two scopes").hash_by_outermost();
        let blocked = async || {
            let team = red_in_acme.is_blocked().await.expect("an answer");
            (team, join(&teams, 1).is_blocked().await.expect("an answer"))
        };
        self.runtime
            .block_on(red_in_acme.block(HOUR / 2))
            .expect("an answer");
        assert_eq!(self.runtime.block_on(blocked()), (true, false));
        let wait = Some(RetryAfter::In(HOUR / 2));
        for cost in [0, 1] {
            let (denied, denied_by) = check(&teams, cost);
            assert_eq!(denied_by, ["team"], "cost {cost}");
            assert_eq!(denied.denial_reason(), Some(DenialReason::Blocked));
            assert_eq!(denied.retry_after(), wait);
            assert_eq!(numbers(&denied), [(9, None), (0, wait), (29, None)]);
        }
        // Another scope denies the cost anyway.
        let (denied, denied_by) = check(&teams, 10);
        assert_eq!(denied_by, ["user", "team"]);
        assert_eq!(denied.denial_reason(), Some(DenialReason::Blocked));
        // The denials were not charged, and a limit that is switched off does not deny.
        let (allowed, _) = check(&off, 1);
        assert_eq!(numbers(&allowed), [(8, None), (19, None), (28, None)]);
        let most = 24 * HOUR;
        let reply = self
            .runtime
            .block_on(join(&teams, 1).reserve(most))
            .expect("an answer");
        assert_eq!(reply.decision.denial_reason(), Some(DenialReason::Blocked));
        assert!(reply.reservation.is_none() && reply.receipt.is_none());
        // The innermost key, which is another one outside of the organization.
        self.runtime
            .block_on(red_in_acme.unblock())
            .expect("an answer");
        self.runtime
            .block_on(join(&teams, 1).block(HOUR))
            .expect("an answer");
        assert_eq!(self.runtime.block_on(blocked()), (false, true));
        assert_eq!(check(&teams, 1).1, ["user"]);
        assert!(
            !self
                .runtime
                .block_on(users.is_blocked(&ann))
                .expect("an answer")
        );
        self.runtime
            .block_on(join(&teams, 1).unblock())
            .expect("an answer");
        assert!(check(&teams, 1).0.is_allowed());
    }

    fn charges_what_is_there(&self) {
        for policy in self.policies() {
            let key = Key::from(policy.quotas()[0].quota().to_string());
            let take = |most: u64| {
                let reply = self.ask(Op::CheckUpTo(most), &policy, &key);
                let tokens = reply.receipt.as_ref().map(Receipt::tokens);
                (tokens, reply)
            };
            assert_eq!(take(7).0, Some(7), "{policy:?}");
            assert_eq!(take(0).0, Some(0));
            let (tokens, rest) = take(u64::MAX);
            assert_eq!(tokens, Some(3), "{policy:?}");
            assert_eq!(rest.decision.snapshot().remaining(), 0);
            let (tokens, denied) = take(5);
            assert_eq!(tokens, None);
            // The wait is the one for a single token.
            let one = self.check(&policy, &key, 1).decision;
            assert_eq!(denied.decision, one);
            // The receipt has what was charged, and no more.
            let refund = Op::Refund(rest.receipt.expect("allowed"));
            let after = self.ask(refund, &policy, &key).decision;
            assert_eq!(after.snapshot().remaining(), 3, "{policy:?}");
            let _ = self.ask(Op::Reset, &policy, &key);
        }
    }
}

#[test]
fn memory() {
    let clock = ManualClock::at(Timestamp::from_micros(TODAY));
    let backend = tower_sluice::MemoryBackend::builder()
        .clock(clock.clone())
        .build();
    Subject {
        backend: &backend,
        clock: &clock,
        runtime: &runtime(),
        keeps_logs: true,
    }
    .run();
}

#[cfg(feature = "redis")]
#[test]
fn redis() {
    crate::redis::Scripted::start().run_blocks();
}

#[cfg(feature = "redis")]
#[test]
fn redis_without_scripts() {
    crate::redis::Optimistic::start().run_blocks();
}
