//! Denials of blocked keys.

use std::time::Duration;

use super::*;
use crate::decision::{DenialReason, QuotaSnapshot, RetryAfter};

fn of_block(policy: &Policy, cost: u64, rests: &[u64]) -> Decision {
    let other = QuotaSnapshot::new(10, 3, None, Duration::from_secs(9));
    let numbers = vec![other; policy.quotas().len()];
    Reply::of_blocked_scopes(policy, &Cost::new(cost), rests, &numbers).decision
}

#[test]
fn denial_of_a_blocked_key_holds_for_every_charge() {
    let known = Known::new(1_000);
    known.denials.forget(&known.policy, &known.key);
    let find = |cost: u64, max_wait| {
        let (policy, cost) = (&known.policy, Cost::new(cost));
        known
            .denials
            .find(policy, &known.key, &cost, at(100), max_wait)
    };
    let Err(miss) = find(5, None) else {
        panic!("nothing is cached");
    };
    let (policy, decision) = (&known.policy, of_block(&known.policy, 5, &[60 * SECOND]));
    known
        .denials
        .keep(miss, policy, &Cost::new(5), at(100), || at(100), &decision);
    for cost in [1, 5, 9] {
        for max_wait in [None, Some(90 * SECOND)] {
            let reply = find(cost, max_wait).ok().expect("known");
            assert_eq!(reply.decision.denial_reason(), Some(DenialReason::Blocked));
            let wait = RetryAfter::In(Duration::from_secs(60));
            assert_eq!(reply.decision.retry_after(), Some(wait), "{cost}");
        }
    }
    assert!(find(0, None).is_err(), "a look asks Redis");
    assert!(known.knows(1, 99 + SECOND).is_some());
    assert!(
        known.knows(1, 100 + SECOND).is_none(),
        "the block may have been ended"
    );
    known.denials.forget(&known.policy, &known.key);
    assert!(known.knows(1, 100).is_none(), "the block was ended here");
}

#[test]
fn denial_by_a_block_of_one_scope_holds_for_its_cost() {
    let org = Policy::new("org", Quota::per_second(10));
    let policy = Policy::new("user", Quota::per_second(10))
        .within(&org)
        .expect("two scopes");
    let denials = DenyCache::new(SECOND);
    let key = Key::from("ann");
    let find = |cost: u64| denials.find(&policy, &key, &Cost::new(cost), at(100), None);
    let Err(miss) = find(5) else {
        panic!("nothing is cached");
    };
    let decision = of_block(&policy, 5, &[0, 60 * SECOND]);
    denials.keep(miss, &policy, &Cost::new(5), at(100), || at(100), &decision);
    let reply = find(5).ok().expect("known");
    assert_eq!(Vec::from_iter(reply.decision.denied_by(&policy)), ["org"]);
    assert!(find(9).is_err(), "the other scope may deny it for longer");
}
