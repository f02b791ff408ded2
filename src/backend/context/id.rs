use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Identifies a backend within this process. The clones of a backend share its context and so its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BackendId(u64);

impl BackendId {
    pub(super) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);

        Self(NEXT.fetch_add(1, Relaxed))
    }
}
