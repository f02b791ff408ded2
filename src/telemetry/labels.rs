use std::sync::Arc;
#[cfg(feature = "metrics")]
use std::sync::OnceLock;

#[cfg(feature = "metrics")]
use super::keys::DecisionKeys;

/// The name of a policy, as logs and metrics show it.
pub(crate) struct Labels {
    name: Arc<str>,
    /// The keys of its metrics, built at the first decision.
    #[cfg(feature = "metrics")]
    keys: OnceLock<DecisionKeys>,
}

impl Labels {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            #[cfg(feature = "metrics")]
            keys: OnceLock::new(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    #[cfg(feature = "metrics")]
    pub(super) fn keys(&self) -> &DecisionKeys {
        self.keys.get_or_init(|| DecisionKeys::new(&self.name))
    }
}
