//! The life of a connection. The pool of bb8 replaces a connection only if it is marked as retired.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::known::KnownScripts;

/// A background task sends a `PING` over a connection that was silent for this long.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// The life of a connection. It is over when the connection or its generation is retired.
pub(super) struct ConnectionLife {
    generation: u64,
    marks: Arc<Generations>,
    retired: AtomicBool,
    /// The time of the last reply over this connection, in ms since the start of the marks.
    heard: AtomicU64,
    pub(super) scripts: KnownScripts,
}

/// The state of all connections of a backend.
pub(super) struct Generations {
    start: Instant,
    /// Generations below this number are retired.
    youngest: AtomicU64,
    /// How often a connection has not answered in time.
    doubts: AtomicU64,
    /// Wakes the keep-alive tasks when connections were retired.
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

// Relaxed: the marks guard no other memory. A mark that is seen late costs one operation.
impl Generations {
    /// Returns the generation of a connection that is opened now.
    pub(super) fn generation(&self) -> u64 {
        self.youngest.load(Relaxed)
    }

    /// Retires all connections that are open now.
    #[cfg(feature = "sentinel")]
    pub(super) fn retire_all(&self) {
        self.youngest.fetch_add(1, Relaxed);
        self.changed.notify_waiters();
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

    /// Completes when connections were retired.
    pub(super) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.marks.changed.notified()
    }

    /// Retires this connection.
    pub(super) fn retire(&self) {
        self.retired.store(true, Relaxed);
        self.marks.changed.notify_waiters();
    }

    /// Doubts all connections, because this one did not answer in time. Each is checked before its next use.
    pub(super) fn doubt_all(&self) {
        self.marks.doubts.fetch_add(1, Relaxed);
    }

    /// Retires all connections that were opened before this one failed. They lead to the same server, so each of them
    /// would cost an operation.
    pub(super) fn retire_generation(&self) {
        self.marks.youngest.fetch_max(self.generation + 1, Relaxed);
        self.marks.changed.notify_waiters();
    }
}

/// Retires the generation when it is dropped, unless it was emptied.
pub(super) struct RetireOnDrop<'a>(pub(super) Option<&'a ConnectionLife>);

impl Drop for RetireOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(life) = self.0 {
            life.retire_generation();
        }
    }
}
