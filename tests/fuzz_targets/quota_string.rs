use std::time::Duration;

use tower_sluice::algorithm::{self, State};
use tower_sluice::clock::Timestamp;
use tower_sluice::{Cost, Policy, Quota, RetryAfter};

/// Any text is a quota or an error. A quota is displayed in a form that means the same, and its decisions are exact. An
/// example in an error is valid.
pub(crate) fn quota_string(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match text.parse::<Quota>() {
        Ok(quota) => {
            let shown = quota.to_string();
            assert_eq!(
                shown.parse(),
                Ok(quota),
                "{text:?} is displayed as {shown:?}"
            );
            decisions_are_exact(quota);
        }
        Err(error) => {
            let error = error.to_string();
            let examples = error
                .split_once("use for example ")
                .map_or("", |(_, examples)| examples);
            // Every second part is between quotes. An example may be a list.
            for example in examples.split('"').skip(1).step_by(2) {
                for quota in example.split(", ") {
                    assert!(quota.parse::<Quota>().is_ok(), "{quota:?} of {error}");
                }
            }
        }
    }
}

/// Spends a little more than half of the limit twice. A denial holds until its `retry_after`, and no longer.
pub(crate) fn decisions_are_exact(quota: Quota) {
    let policy = Policy::new("fuzz", quota);
    let cost = Cost::new(quota.limit() / 2 + 1);
    let mut states: [Option<State>; 1] = [None];
    let mut now = Timestamp::from_micros(1_800_000_000_000_000);
    for _ in 0..3 {
        let decision = algorithm::check(&policy, &mut states, now, cost.clone()).decision;
        assert!(decision.snapshot().remaining() <= quota.limit());
        match decision.retry_after() {
            None => assert!(decision.is_allowed()),
            Some(RetryAfter::In(wait)) => {
                let sooner = now.after(wait - Duration::from_micros(1));
                let mut copy = states.clone();
                let denied = algorithm::check(&policy, &mut copy, sooner, cost.clone());
                assert!(
                    !denied.decision.is_allowed(),
                    "{quota} allows before {wait:?}"
                );
                now = now.after(wait);
                let allowed = algorithm::check(&policy, &mut states, now, cost.clone());
                assert!(
                    allowed.decision.is_allowed(),
                    "{quota} denies after {wait:?}"
                );
            }
            Some(RetryAfter::Never) => {
                assert!(cost.get(0) > quota.limit(), "{quota} never allows {cost:?}")
            }
        }
    }
}
