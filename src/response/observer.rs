use std::fmt;
use std::sync::Arc;

use super::rejection::Rejection;
use crate::head::Head;
use crate::key::Key;

type Observe = dyn Fn(&Head<'_>, Option<&Key>, &Rejection) + Send + Sync;

/// A closure that sees rejections; see [`Http::on_rejected`](super::Http::on_rejected). Clones share it.
///
/// Its type does not name the closure, so a layer with it keeps its type.
#[derive(Clone)]
pub(super) struct RejectionObserver(Arc<Observe>);

impl RejectionObserver {
    pub(super) fn new<F>(f: F) -> Self
    where
        F: Fn(&Head<'_>, Option<&Key>, &Rejection) + Send + Sync + 'static,
    {
        Self(Arc::new(f))
    }

    pub(super) fn observe(&self, head: &Head<'_>, key: Option<&Key>, rejection: &Rejection) {
        (self.0)(head, key, rejection);
    }
}

impl fmt::Debug for RejectionObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RejectionObserver(..)")
    }
}
