//! The edges of calendar windows. A script has no calendar, so a request brings the edges around the server's time.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use parking_lot::Mutex;

use crate::clock::Timestamp;
use crate::quota::{Calendar, EDGES};

/// The difference between the clocks of a server and of this process, as far as a script has reported it.
#[derive(Debug, Default)]
pub(super) struct ServerClock {
    /// The µs by which the server is ahead.
    ahead: AtomicI64,
}

/// The time around which a request chooses edges.
#[derive(Clone, Debug)]
pub(super) struct EdgeTime {
    /// The time of this process when the request was made, in µs.
    own: i64,
    server: Arc<ServerClock>,
}

impl EdgeTime {
    pub(super) fn new(own: Timestamp, server: &Arc<ServerClock>) -> Self {
        Self {
            own: micros(own),
            server: Arc::clone(server),
        }
    }

    pub(super) fn at_server(&self) -> i64 {
        self.own.saturating_add(self.server.ahead.load(Relaxed))
    }

    /// Notes the time of the server, in µs.
    pub(super) fn note_server(&self, at: i64) {
        self.server
            .ahead
            .store(at.saturating_sub(self.own), Relaxed);
    }
}

fn micros(time: Timestamp) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

/// The calendar of a quota, and the numbers that were sent last.
pub(super) struct CalendarEdges {
    calendar: Calendar,
    /// It is replaced as a whole, so a panic leaves no half of it.
    latest: AssertUnwindSafe<Mutex<Option<SentEdges>>>,
}

/// Edges, and the numbers of the quota with them.
type SentEdges = ([i64; EDGES], Vec<u8>);

impl CalendarEdges {
    pub(super) const fn new(calendar: Calendar) -> Self {
        Self {
            calendar,
            latest: AssertUnwindSafe(Mutex::new(None)),
        }
    }

    /// Returns the numbers of the quota with the edges around `at`.
    pub(super) fn numbers(&self, constant: &[u8], at: i64) -> Vec<u8> {
        let mut latest = self.latest.lock();
        match &*latest {
            Some((edges, numbers)) if (edges[1]..edges[2]).contains(&at) => numbers.clone(),
            _ => {
                let edges = self.calendar.edges_around(at);
                let mut numbers = constant.to_vec();
                numbers.extend(edges.iter().flat_map(|edge| edge.to_le_bytes()));
                *latest = Some((edges, numbers.clone()));
                numbers
            }
        }
    }
}
