//! One decision over several keys, compared with the algorithms on each key alone.

use std::collections::HashMap;

use futures_util::FutureExt;
use proptest::collection::vec;
use proptest::prelude::*;
use tower_sluice::algorithm::{self, State};
use tower_sluice::backend::Reply;
use tower_sluice::clock::{ManualClock, Timestamp};
use tower_sluice::decision::QuotaSnapshot;
use tower_sluice::limiter::{Rejected, Scopes};
use tower_sluice::{Cost, Decision, Key, Limiter, MemoryBackend, Policy, Quota, RetryAfter};

use crate::for_all;
use crate::shapes::{KINDS, Shape, small_shape};
use crate::traffic::TODAY;

type Memory = MemoryBackend<ManualClock>;

const NAMES: [&str; 3] = ["user", "team", "org"];

/// A request of a user, whose team and organization follow from it. A step is in µs.
#[derive(Clone, Debug)]
struct Request {
    user: u64,
    costs: [u64; 3],
    step: u64,
    refund: Option<u64>,
}

impl Request {
    fn keys(&self) -> [Key; 3] {
        [self.user, self.user % 3, self.user % 2].map(Key::from)
    }
}

fn requests() -> impl Strategy<Value = Vec<Request>> {
    let cost = || prop_oneof![1 => Just(0_u64), 8 => 1..=6_u64, 1 => 7..=25_u64];
    let request = (
        0..6_u64,
        [cost(), cost(), cost()],
        prop_oneof![Just(0_u64), 0..=3_000_u64],
        proptest::option::weighted(0.2, 0..=6_u64),
    );
    let request = request.prop_map(|(user, costs, step, refund)| Request {
        user,
        costs,
        step,
        refund,
    });
    vec(request, 1..=60)
}

/// The algorithms, with a state for each policy and key.
#[derive(Default)]
struct Model(HashMap<(usize, Key), Vec<Option<State>>>);

impl Model {
    /// Decides each scope alone, and keeps the new states only if all of them allow.
    fn check(
        &mut self,
        policies: &[Policy; 3],
        keys: &[Key; 3],
        costs: [u64; 3],
        now: Timestamp,
    ) -> (bool, Vec<QuotaSnapshot>) {
        let decide = |index: usize, cost: u64| {
            let states = self.0.get(&(index, keys[index].clone()));
            let mut states = states.cloned().unwrap_or_else(|| vec![None]);
            let reply = algorithm::check(&policies[index], &mut states, now, Cost::new(cost));
            (reply.decision, states)
        };
        let alone = [0, 1, 2].map(|index| decide(index, costs[index]));
        let is_allowed = alone.iter().all(|(decision, _)| decision.is_allowed());
        let answer = |(index, (decision, _)): (usize, &(Decision, _))| {
            match is_allowed || !decision.is_allowed() {
                true => decision.snapshot().quotas()[0],
                // Another scope denies, so that this one reports its state without the charge.
                false => decide(index, 0).0.snapshot().quotas()[0],
            }
        };
        let answers = alone.iter().enumerate().map(answer).collect();
        if is_allowed {
            for (index, (_, states)) in alone.into_iter().enumerate() {
                self.0.insert((index, keys[index].clone()), states);
            }
        }
        (is_allowed, answers)
    }
}

fn ask<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("memory answers at once")
}

fn limiters(shapes: &[Shape; 3], memory: &Memory) -> [Limiter<Memory>; 3] {
    [0, 1, 2].map(|index| {
        let policy = Policy::new(NAMES[index], shapes[index].quota());
        Limiter::new(policy, memory.clone())
    })
}

fn scopes(limiters: &[Limiter<Memory>; 3], keys: &[Key; 3], costs: [u64; 3]) -> Scopes<Memory> {
    let scope = |index: usize| limiters[index].scope(&keys[index], costs[index]);
    Limiter::all([0, 1, 2].map(scope)).expect("three scopes")
}

fn wait(reply: &Reply) -> Option<RetryAfter> {
    reply.decision.retry_after()
}

#[test]
fn denied_decision_charges_no_scope_and_an_allowed_one_charges_all() {
    let shape = || small_shape(KINDS, true);
    let coverage = for_all(
        ([shape(), shape(), shape()], requests()),
        |(shapes, requests), coverage| {
            let clock = ManualClock::at(Timestamp::from_micros(TODAY));
            let memory = MemoryBackend::builder().clock(clock.clone()).build();
            let limiters = limiters(&shapes, &memory);
            let policies = limiters.clone().map(|limiter| limiter.policy().clone());
            let mut model = Model::default();
            let mut now = TODAY;
            for request in requests {
                now += request.step;
                clock.set(Timestamp::from_micros(now));
                let keys = request.keys();
                let scopes = scopes(&limiters, &keys, request.costs);
                let Ok(mut reply) = ask(scopes.check());
                let time = Timestamp::from_micros(now);
                let (is_allowed, answers) = model.check(&policies, &keys, request.costs, time);
                prop_assert_eq!(reply.decision.is_allowed(), is_allowed);
                prop_assert_eq!(reply.decision.snapshot().quotas(), answers.as_slice());
                let denied_by: Vec<_> = reply.decision.denied_by(scopes.policy()).collect();
                let expected = (0..3).filter(|index| !answers[*index].is_allowed());
                let expected: Vec<_> = expected.map(|index| NAMES[index]).collect();
                prop_assert_eq!(&denied_by, &expected);
                if !is_allowed {
                    let longest = answers.iter().filter_map(QuotaSnapshot::retry_after);
                    let longest = longest.max_by_key(|wait| match wait {
                        RetryAfter::In(wait) => (false, *wait),
                        RetryAfter::Never => (true, std::time::Duration::ZERO),
                    });
                    prop_assert_eq!(wait(&reply), longest);
                    coverage.note(format!("denied by {}", denied_by.len()));
                    continue;
                }
                coverage.note("allowed");
                if let (Some(part), Some(receipt)) = (request.refund, &mut reply.receipt) {
                    let taken = request.costs.map(|cost| cost.min(part));
                    let Ok(after) = ask(scopes.refund(receipt, part));
                    // The state after a refund depends on the window of the charge, so that it is read back.
                    for (index, limiter) in limiters.iter().enumerate() {
                        let Ok(alone) = ask(limiter.peek(&keys[index]));
                        prop_assert_eq!(after.quotas()[index], alone.quotas()[0]);
                        let back = alone.remaining() - answers[index].remaining();
                        prop_assert!(back <= taken[index], "{} of {:?}", back, taken);
                    }
                    coverage.note("refunded");
                    return Ok(());
                }
            }
            Ok(())
        },
    );
    coverage.at_least(
        20,
        &[
            "allowed",
            "refunded",
            "denied by 1",
            "denied by 2",
            "denied by 3",
        ],
    );
}

#[test]
fn users_of_a_team_together_never_exceed_its_quota() {
    let day = std::time::Duration::from_secs(86_400);
    let coverage = for_all(
        (1..=20_u64, 1..=40_u64, requests()),
        |(of_user, of_team, requests), coverage| {
            let clock = ManualClock::at(Timestamp::from_micros(TODAY));
            let memory = MemoryBackend::builder().clock(clock).build();
            let limiter = |name, limit| {
                let policy = Policy::new(name, Quota::fixed_window(limit, day));
                Limiter::new(policy, memory.clone())
            };
            let (users, teams) = (limiter("user", of_user), limiter("team", of_team));
            let mut spent = HashMap::<(&str, u64), u64>::new();
            for request in requests {
                let (user, team) = (request.user, request.user % 2);
                let keys = [user, team].map(Key::from);
                let cost = request.costs[0];
                let scopes = [users.scope(&keys[0], cost), teams.scope(&keys[1], cost)];
                let scopes = Limiter::all(scopes).expect("two scopes");
                let denied = match (ask(scopes.try_acquire()), request.refund) {
                    (Ok(charge), Some(part)) => {
                        // A settlement above the estimate may exceed the quota, so that it is at most the estimate.
                        let settled = ask(charge.settle(part.min(cost)));
                        prop_assert!(settled.is_ok());
                        *spent.entry(("user", user)).or_default() += part.min(cost);
                        *spent.entry(("team", team)).or_default() += part.min(cost);
                        coverage.note("settled");
                        continue;
                    }
                    (Ok(_), None) => {
                        *spent.entry(("user", user)).or_default() += cost;
                        *spent.entry(("team", team)).or_default() += cost;
                        continue;
                    }
                    (Err(Rejected::Denied(decision)), _) => decision,
                    (Err(other), _) => unreachable!("memory cannot fail: {other:?}"),
                };
                for name in denied.denied_by(scopes.policy()) {
                    coverage.note(format!("denied by {name}"));
                }
                for ((name, key), limiter, limit) in [
                    (("user", user), &users, of_user),
                    (("team", team), &teams, of_team),
                ] {
                    let spent = spent.get(&(name, key)).copied().unwrap_or(0);
                    let Ok(left) = ask(limiter.peek(&Key::from(key)));
                    prop_assert!(spent <= limit);
                    prop_assert_eq!(left.remaining(), limit - spent, "{}", name);
                }
            }
            Ok(())
        },
    );
    coverage.at_least(20, &["settled", "denied by user", "denied by team"]);
}

#[test]
fn scopes_with_equal_keys_decide_like_one_policy_with_all_quotas() {
    let shape = || small_shape(KINDS, false);
    let coverage = for_all(
        ([shape(), shape(), shape()], requests()),
        |(shapes, requests), coverage| {
            let clock = ManualClock::at(Timestamp::from_micros(TODAY));
            let memory = || MemoryBackend::builder().clock(clock.clone()).build();
            let limiters = limiters(&shapes, &memory());
            let quotas = (0..3).map(|index| (NAMES[index], shapes[index].quota()));
            let one = Policy::try_from_quotas("one", quotas).expect("three quotas");
            let one = Limiter::new(one, memory());
            let mut now = TODAY;
            for request in requests {
                now += request.step;
                clock.set(Timestamp::from_micros(now));
                let keys = [0, 1, 2].map(|_| Key::from(request.user));
                let scopes = scopes(&limiters, &keys, request.costs);
                let Ok(mut joined) = ask(scopes.check());
                let Ok(mut alone) = ask(one.check(&keys[0], Cost::each(request.costs)));
                prop_assert_eq!(&joined.decision, &alone.decision);
                coverage.note(match alone.decision.is_allowed() {
                    true => "allowed",
                    false => "denied",
                });
                if let (Some(part), Some(first), Some(second)) =
                    (request.refund, &mut joined.receipt, &mut alone.receipt)
                {
                    let Ok(joined) = ask(scopes.refund(first, part));
                    let Ok(alone) = ask(one.refund(&keys[0], second, part));
                    prop_assert_eq!(joined, alone);
                    coverage.note("refunded");
                }
                let Ok(joined) = ask(scopes.peek());
                let Ok(alone) = ask(one.peek(&keys[0]));
                prop_assert_eq!(joined, alone);
            }
            Ok(())
        },
    );
    coverage.at_least(50, &["allowed", "denied", "refunded"]);
}

#[test]
fn reservation_is_made_in_all_scopes_or_in_none() {
    let second = std::time::Duration::from_secs(1);
    let clock = ManualClock::at(Timestamp::from_micros(TODAY));
    let memory = MemoryBackend::builder().clock(clock.clone()).build();
    let limiter = |name, quota| Limiter::new(Policy::new(name, quota), memory.clone());
    let users = limiter("user", Quota::per_second(2));
    let teams = limiter("team", Quota::per_second(1));
    let [ann, bob, red] = ["ann", "bob", "red"].map(Key::from);
    let scopes = |user| {
        let scopes = Limiter::all([users.scope(user, 1), teams.scope(&red, 1)]);
        scopes.expect("two scopes")
    };
    let left =
        |limiter: &Limiter<Memory>, key: &Key| ask(limiter.peek(key)).map(|all| all.remaining());
    assert!(ask(scopes(&ann).check()).is_ok_and(|reply| reply.decision.is_allowed()));
    let Ok(denied) = ask(scopes(&bob).reserve(second / 2));
    assert!(!denied.decision.is_allowed());
    assert_eq!(
        left(&users, &bob),
        Ok(2),
        "denied in the team, so nothing is reserved"
    );
    let Ok(reserved) = ask(scopes(&bob).reserve(second));
    assert_eq!(reserved.wait, second);
    assert_eq!(left(&users, &bob), Ok(1));
    let reservation = reserved.reservation.expect("of buckets only");
    assert_eq!(ask(scopes(&bob).cancel(reservation)), Ok(true));
    assert_eq!(left(&users, &bob), Ok(2));
    clock.advance(second);
    assert_eq!(
        left(&teams, &red),
        Ok(1),
        "nothing is owed by the cancelled one"
    );
}

#[test]
fn inner_keys_can_belong_to_the_outermost_key() {
    let memory = MemoryBackend::builder()
        .clock(ManualClock::at(Timestamp::from_micros(TODAY)))
        .build();
    let limiter = |name, limit| {
        let policy = Policy::new(name, Quota::per_second(limit));
        Limiter::new(policy, memory.clone())
    };
    let (users, orgs) = (limiter("user", 1), limiter("org", 10));
    let [ann, acme, umbrella] = ["ann", "acme", "umbrella"].map(Key::from);
    let allowed = |org, by_outermost| {
        let scopes = Limiter::all([users.scope(&ann, 1), orgs.scope(org, 1)]).expect("two scopes");
        let scopes = match by_outermost {
            true => scopes.hash_by_outermost(),
            false => scopes,
        };
        ask(scopes.check()).is_ok_and(|reply| reply.decision.is_allowed())
    };
    assert!(allowed(&acme, true) && allowed(&umbrella, true));
    assert!(!allowed(&acme, true) && !allowed(&umbrella, true));
    assert!(allowed(&acme, false), "the user alone has another bucket");
    assert!(!allowed(&umbrella, false));
}

#[test]
fn scopes_that_cannot_be_decided_together_are_an_error() {
    let limiter = |name| {
        let policy = Policy::new(name, Quota::per_second(1));
        Limiter::new(policy, MemoryBackend::new())
    };
    let (users, orgs, ann) = (limiter("user"), limiter("org"), Key::from("ann"));
    let text = |scopes: Vec<_>| Limiter::all(scopes).err().map(|error| error.to_string());
    assert_eq!(text(vec![users.scope(&ann, 1)]), None);
    assert_eq!(
        text(vec![users.scope(&ann, 1), orgs.scope(&ann, 1)]).as_deref(),
        Some("scopes with different backends: use limiters of one backend and its clones")
    );
    assert_eq!(
        text(vec![users.scope(&ann, 1), users.scope(&ann, 2)]).as_deref(),
        Some(r#"duplicate scope "user": give each scope of a decision its own policy or key"#)
    );
    assert_eq!(
        text(Vec::new()).as_deref(),
        Some("invalid decision over 0 scopes: use 1 to 8")
    );
    let keys: Vec<_> = (0..9_u64).map(Key::from).collect();
    let nine = keys.iter().map(|key| users.scope(key, 1)).collect();
    assert_eq!(
        text(nine).as_deref(),
        Some("invalid decision over 9 scopes: use 1 to 8")
    );
}

#[test]
fn scope_of_a_limiter_that_is_off_is_not_charged_and_denies_nothing() {
    let memory = MemoryBackend::builder()
        .clock(ManualClock::at(Timestamp::from_micros(TODAY)))
        .build();
    let limiter = |name, limit| {
        let policy = Policy::new(name, Quota::per_second(limit));
        Limiter::new(policy, memory.clone())
    };
    let switch = tower_sluice::Switch::new(false);
    let users = limiter("user", 1).enabled(&switch);
    let orgs = limiter("org", 2);
    let [ann, acme] = ["ann", "acme"].map(Key::from);
    let allowed = || {
        let scopes = Limiter::all([users.scope(&ann, 1), orgs.scope(&acme, 1)]);
        let reply = ask(scopes.expect("two scopes").check());
        reply.is_ok_and(|reply| reply.decision.is_allowed())
    };
    assert!(allowed() && allowed() && !allowed());
    switch.set(true);
    assert_eq!(ask(users.peek(&ann)).map(|left| left.remaining()), Ok(1));
}

#[test]
fn last_of_many_quotas_governs_if_it_denies() {
    let memory = MemoryBackend::builder()
        .clock(ManualClock::at(Timestamp::from_micros(TODAY)))
        .build();
    let limiters: Vec<_> = (0..8)
        .map(|scope| {
            let limit = |index| if (scope, index) == (7, 7) { 1 } else { 9 };
            let quota = |index: u64| (format!("q{index}"), Quota::per_second(limit(index)));
            let policy = Policy::try_from_quotas(&format!("s{scope}"), (0..8).map(quota));
            Limiter::new(policy.expect("eight quotas"), memory.clone())
        })
        .collect();
    let ann = Key::from("ann");
    let all = limiters.iter().map(|limiter| limiter.scope(&ann, 1));
    let scopes = Limiter::all(all).expect("eight scopes");
    assert!(ask(scopes.check()).is_ok_and(|reply| reply.decision.is_allowed()));
    let Ok(denied) = ask(scopes.check());
    assert!(!denied.decision.is_allowed());
    let snapshot = denied.decision.snapshot();
    assert_eq!(snapshot.governing(), 63);
    assert_eq!(snapshot.governed_by(scopes.policy()), "s7");
}
