//! How long a connection is good for. bb8-redis never calls one broken: without a mark a pool hands it out for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::known::KnownScripts;

/// A background task sends a `PING` over a connection that was silent for this long.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// How long a connection is good for: until it is retired, or its generation.
pub(super) struct ConnectionLife {
    generation: u64,
    marks: Arc<Generations>,
    retired: AtomicBool,
    /// When the server last answered over it, in ms of the marks' time.
    heard: AtomicU64,
    pub(super) scripts: KnownScripts,
}

/// What is known of all connections of a backend.
pub(super) struct Generations {
    start: Instant,
    /// Older generations are over.
    youngest: AtomicU64,
    /// How often one has not answered in time.
    doubts: AtomicU64,
    /// Wakes the keep-alive tasks when connections may be over.
    changed: Notify,
    /// How often the server has lost its scripts.
    flushes: Arc<AtomicU64>,
}

impl Default for Generations {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            youngest: AtomicU64::new(0),
            doubts: AtomicU64::new(0),
            changed: Notify::new(),
            flushes: Arc::default(),
        }
    }
}

// Relaxed: the marks carry no other memory, and one that is seen late costs an operation.
impl Generations {
    /// Of a connection that is made now.
    pub(super) fn generation(&self) -> u64 {
        self.youngest.load(Relaxed)
    }

    pub(super) fn doubts(&self) -> u64 {
        self.doubts.load(Relaxed)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl ConnectionLife {
    pub(super) fn new(generation: u64, marks: &Arc<Generations>) -> Arc<Self> {
        Arc::new(Self {
            generation,
            marks: Arc::clone(marks),
            retired: AtomicBool::new(false),
            heard: AtomicU64::new(marks.now()),
            scripts: KnownScripts::new(&marks.flushes),
        })
    }

    pub(super) fn is_over(&self) -> bool {
        self.retired.load(Relaxed) || self.generation < self.marks.generation()
    }

    /// Notes that the server has answered over this connection.
    pub(super) fn hear(&self) {
        self.heard.fetch_max(self.marks.now(), Relaxed);
    }

    /// The time since the server last answered over this connection.
    pub(super) fn silence(&self) -> Duration {
        let silent = self.marks.now().saturating_sub(self.heard.load(Relaxed));
        Duration::from_millis(silent)
    }

    /// Waits until connections may have been retired.
    pub(super) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.marks.changed.notified()
    }

    /// This connection is not to be used again.
    pub(super) fn retire(&self) {
        self.retired.store(true, Relaxed);
        self.marks.changed.notify_waiters();
    }

    /// It did not answer in time. The others are asked whether they do before they are used again.
    pub(super) fn doubt_all(&self) {
        self.marks.doubts.fetch_add(1, Relaxed);
    }

    /// It leads nowhere, or to a server of no use: so do all that were made before it failed. They are replaced before
    /// each of them has cost an operation.
    pub(super) fn retire_generation(&self) {
        self.marks.youngest.fetch_max(self.generation + 1, Relaxed);
        self.marks.changed.notify_waiters();
    }
}

/// Retires its generation unless it is told that all is well.
pub(super) struct RetireOnDrop<'a>(pub(super) Option<&'a ConnectionLife>);

impl Drop for RetireOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(life) = self.0 {
            life.retire_generation();
        }
    }
}
