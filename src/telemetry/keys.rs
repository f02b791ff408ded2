use std::sync::Arc;

use metrics::{Key, Label, SharedString};

use super::outcome::DecisionOutcome;

pub(super) const DECISIONS: &str = "sluice_decisions_total";
pub(super) const WAIT: &str = "sluice_wait_seconds";

/// The keys of the metrics of one policy.
pub(super) struct DecisionKeys {
    pub(super) decisions: [Key; DecisionOutcome::NAMES.len()],
    pub(super) wait: Key,
}

impl DecisionKeys {
    pub(super) fn new(policy: &Arc<str>) -> Self {
        let name = SharedString::from_shared(Arc::clone(policy));
        let label = Label::new("policy", name);
        Self {
            decisions: DecisionOutcome::NAMES.map(|outcome| {
                let outcome = Label::from_static_parts("outcome", outcome);
                Key::from_parts(DECISIONS, vec![label.clone(), outcome])
            }),
            wait: Key::from_parts(WAIT, vec![label.clone()]),
        }
    }
}
