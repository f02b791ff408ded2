use tower_sluice::Policy;

use super::quota_string::decisions_are_exact;

/// Any bytes are a policy or an error. A policy is written in a form that means the same, and its decisions are exact.
pub(crate) fn policy_serde(data: &[u8]) {
    let Ok(policy) = serde_json::from_slice::<Policy>(data) else {
        return;
    };
    let written = serde_json::to_string(&policy).expect("every policy can be written");
    let read: Policy = serde_json::from_str(&written).expect("what was written can be read");
    assert_eq!(read, policy, "{written}");
    for named in policy.quotas() {
        decisions_are_exact(*named.quota());
    }
}
