/// The outcome of a check of a policy or of a semaphore.
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "metrics"), allow(dead_code))]
pub(crate) enum DecisionOutcome {
    /// The request is allowed.
    Allowed,
    /// The request is rejected.
    Denied,
    /// The request exceeds the limit of a shadow policy and is allowed.
    Shadow,
    /// The backend failed, and the request is allowed.
    Passed,
    /// The backend failed, and the request is rejected.
    Unavailable,
}

#[cfg(feature = "metrics")]
impl DecisionOutcome {
    /// The values of the label `outcome`, in the order of the variants.
    pub(super) const NAMES: [&str; 5] = ["allowed", "denied", "shadow", "passed", "unavailable"];
}

/// A fault of the server that leaves requests without a key. Each kind is logged at level error once.
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "tracing"), allow(dead_code))]
pub(crate) enum ServerFault {
    MissingPeer = 1,
    MissingExtension = 2,
    Other = 4,
}
