//! How long a connection is good for. bb8-redis never calls one broken: without a mark a pool hands it out for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A connection that nobody has used for so long is closed, before a firewall or the server does it unseen.
pub(super) const IDLE: Duration = Duration::from_secs(60);

/// A connection that was not used for so long is asked whether it still leads anywhere: a restart meanwhile costs no decision.
pub(super) const TRUSTED: Duration = Duration::from_secs(1);

/// How long a connection is good for: until it is retired, or its generation.
pub(super) struct Life {
    generation: u64,
    marks: Arc<Marks>,
    retired: AtomicBool,
}

/// What is known of all connections of a backend.
#[derive(Default)]
pub(super) struct Marks {
    /// Older generations are over.
    youngest: AtomicU64,
    /// How often one has not answered in time.
    doubts: AtomicU64,
}

// Relaxed: the marks carry no other memory, and one that is seen late costs an operation.
impl Marks {
    /// Of a connection that is made now.
    pub(super) fn generation(&self) -> u64 {
        self.youngest.load(Relaxed)
    }

    pub(super) fn doubts(&self) -> u64 {
        self.doubts.load(Relaxed)
    }
}

impl Life {
    pub(super) fn new(generation: u64, marks: &Arc<Marks>) -> Arc<Self> {
        Arc::new(Self {
            generation,
            marks: Arc::clone(marks),
            retired: AtomicBool::new(false),
        })
    }

    pub(super) fn is_over(&self) -> bool {
        self.retired.load(Relaxed) || self.generation < self.marks.generation()
    }

    /// This connection is not to be used again.
    pub(super) fn retire(&self) {
        self.retired.store(true, Relaxed);
    }

    /// It did not answer in time. The others are asked whether they do before they are used again.
    pub(super) fn doubt_all(&self) {
        self.marks.doubts.fetch_add(1, Relaxed);
    }

    /// It leads nowhere, or to a server of no use: so do all that were made before it failed. They are replaced before each of
    /// them has cost an operation.
    pub(super) fn retire_generation(&self) {
        self.marks.youngest.fetch_max(self.generation + 1, Relaxed);
    }
}

/// Retires its generation unless it is told that all is well.
pub(super) struct Doubt<'a>(pub(super) Option<&'a Life>);

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if let Some(life) = self.0 {
            life.retire_generation();
        }
    }
}
