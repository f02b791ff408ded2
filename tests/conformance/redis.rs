//! The vectors on a real redis-server.

use std::time::Duration;

use tokio::runtime::Runtime;
use tower_sluice::clock::{ManualClock, Timestamp};
use tower_sluice::{Key, Policy, RedisBackend};

use crate::subject::{Subject, Subjects, Through, runtime};
use crate::support::frozen::Frozen;
use crate::support::redis::RedisServer;

/// Scripts, each vector on a key of its own.
pub(crate) struct Scripted {
    runtime: Runtime,
    clock: ManualClock,
    backend: RedisBackend,
    vectors: u64,
    _server: RedisServer,
}

impl Scripted {
    pub(crate) fn start() -> Self {
        let (server, runtime) = (RedisServer::start(), runtime());
        let clock = ManualClock::at(Timestamp::from_micros(0));
        let connection = runtime.block_on(Frozen::connect(&server.url(), &clock));
        let backend = RedisBackend::builder()
            .deny_cache(Duration::ZERO)
            .time_limit(Duration::from_secs(20))
            .from_connection(connection);
        Self {
            runtime,
            clock,
            backend,
            vectors: 0,
            _server: server,
        }
    }
}

impl Subjects for Scripted {
    const NAME: &str = "Redis";

    fn next(&mut self, _: &Policy) -> impl Subject + use<'_> {
        self.vectors += 1;
        Through {
            runtime: &self.runtime,
            backend: self.backend.clone(),
            clock: self.clock.clone(),
            key: Key::from(self.vectors),
        }
    }
}
