//! The vectors on a real redis-server: with scripts, without scripts, and from plain threads.

use std::time::Duration;

use tokio::runtime::Runtime;
use tower_sluice::backend::redis::Atomicity;
use tower_sluice::backend::redis::adapter::RedisConnection;
use tower_sluice::clock::{ManualClock, Timestamp};
use tower_sluice::{Key, Policy, RedisBackend};

use crate::subject::{Subject, Subjects, Through, runtime};
use crate::support::clock_proxy::ClockProxy;
#[cfg(all(feature = "cluster", feature = "sentinel"))]
use crate::support::cluster::RedisCluster;
use crate::support::frozen::Frozen;
use crate::support::redis::RedisServer;
#[cfg(all(feature = "cluster", feature = "sentinel"))]
use crate::support::sentinels::Sentinels;

/// Scripts, each vector on a new key.
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
            .from_transport(RedisConnection::new(connection));
        Self {
            runtime,
            clock,
            backend,
            vectors: 0,
            _server: server,
        }
    }

    pub(crate) fn run_blocks(&self) {
        crate::blocks::Subject {
            backend: &self.backend,
            clock: &self.clock,
            runtime: &self.runtime,
            keeps_logs: true,
        }
        .run();
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

/// WATCH, MULTI and EXEC, each vector on a new key.
pub(crate) struct Optimistic {
    runtime: Runtime,
    clock: ManualClock,
    backend: RedisBackend,
    vectors: u64,
    _proxy: ClockProxy,
    _server: RedisServer,
}

impl Optimistic {
    pub(crate) fn start() -> Self {
        let (server, runtime) = (RedisServer::start(), runtime());
        let clock = ManualClock::at(Timestamp::from_micros(0));
        let proxy = runtime.block_on(ClockProxy::to(server.port(), &clock));
        let backend = RedisBackend::builder()
            .deny_cache(Duration::ZERO)
            .time_limit(Duration::from_secs(20))
            .atomicity(Atomicity::Optimistic)
            .connect_lazy(proxy.url())
            .expect("a URL");
        Self {
            runtime,
            clock,
            backend,
            vectors: 0,
            _proxy: proxy,
            _server: server,
        }
    }

    pub(crate) fn run_blocks(&self) {
        crate::blocks::Subject {
            backend: &self.backend,
            clock: &self.clock,
            runtime: &self.runtime,
            keeps_logs: false,
        }
        .run();
    }
}

impl Subjects for Optimistic {
    const NAME: &str = "Redis without scripts";

    fn next(&mut self, _: &Policy) -> impl Subject + use<'_> {
        self.vectors += 1;
        Through {
            runtime: &self.runtime,
            backend: self.backend.clone(),
            clock: self.clock.clone(),
            key: Key::from(self.vectors),
        }
    }

    /// Sliding logs need scripts.
    fn keeps(policy: &Policy) -> bool {
        let mut quotas = policy.quotas().iter();
        !quotas.any(|named| named.quota().to_string().starts_with("sliding-log"))
    }
}

/// Servers of a topology, each behind a clock of the test, and each vector on a new key.
#[cfg(all(feature = "cluster", feature = "sentinel"))]
pub(crate) struct Topology<S> {
    /// Drives the connections and the proxies.
    runtime: Runtime,
    pub(crate) clock: ManualClock,
    pub(crate) backend: RedisBackend,
    vectors: u64,
    _proxies: Vec<ClockProxy>,
    pub(crate) servers: S,
}

#[cfg(all(feature = "cluster", feature = "sentinel"))]
impl Topology<RedisCluster> {
    pub(crate) fn cluster() -> Self {
        Self::over(RedisCluster::start(3, 0), |cluster| {
            (&cluster.nodes, cluster.url())
        })
    }
}

#[cfg(all(feature = "cluster", feature = "sentinel"))]
impl Topology<Sentinels> {
    pub(crate) fn sentinel() -> Self {
        Self::over(Sentinels::start(1), |sentinels| {
            (&sentinels.servers, sentinels.url())
        })
    }
}

#[cfg(all(feature = "cluster", feature = "sentinel"))]
impl<S> Topology<S> {
    fn over(servers: S, parts: impl Fn(&S) -> (&Vec<RedisServer>, String)) -> Self {
        let runtime = threaded_runtime();
        let clock = ManualClock::at(Timestamp::from_micros(0));
        let (mut proxies, mut ports) = (Vec::new(), std::collections::HashMap::new());
        let (nodes, url) = parts(&servers);
        for node in nodes {
            let proxy = runtime.block_on(ClockProxy::to(node.port(), &clock));
            ports.insert(node.port(), proxy.port());
            proxies.push(proxy);
        }
        let backend = RedisBackend::builder()
            .deny_cache(Duration::ZERO)
            .time_limit(Duration::from_secs(20))
            .node_address(move |host, port| (host.to_owned(), ports[&port]))
            .connect_lazy(url)
            .expect("a URL");
        Self {
            runtime,
            clock,
            backend,
            vectors: 0,
            _proxies: proxies,
            servers,
        }
    }

    pub(crate) fn run_blocks(&self) {
        crate::blocks::Subject {
            backend: &self.backend,
            clock: &self.clock,
            runtime: &self.runtime,
            keeps_logs: true,
        }
        .run();
    }

    /// Runs all files, because a topology takes seconds to form.
    pub(crate) fn run_files(&mut self) {
        for file in [
            "token_bucket.json",
            "token_bucket_interval.json",
            "gcra.json",
            "fixed_window.json",
            "sliding_log.json",
            "sliding_counter.json",
            "multi_limit.json",
            "total.json",
            #[cfg(feature = "calendar")]
            "calendar_window.json",
        ] {
            crate::runner::run_file(file, OnTopology(self));
        }
    }
}

#[cfg(all(feature = "cluster", feature = "sentinel"))]
struct OnTopology<'a, S>(&'a mut Topology<S>);

#[cfg(all(feature = "cluster", feature = "sentinel"))]
impl<'a, S> Subjects for OnTopology<'a, S> {
    const NAME: &'static str = "Redis Cluster or Sentinel";

    fn next(&mut self, _: &Policy) -> impl Subject + use<'_, 'a, S> {
        let topology = &mut *self.0;
        topology.vectors += 1;
        Through {
            runtime: &topology.runtime,
            backend: topology.backend.clone(),
            clock: topology.clock.clone(),
            key: Key::from(topology.vectors),
        }
    }
}

/// Scripts, called from plain threads, each vector on a new key.
#[cfg(feature = "blocking")]
pub(crate) struct Blocking {
    clock: ManualClock,
    backend: tower_sluice::blocking::RedisBackend,
    vectors: u64,
    _proxy: ClockProxy,
    /// Drives the proxy.
    _runtime: Runtime,
    _server: RedisServer,
}

#[cfg(feature = "blocking")]
impl Blocking {
    pub(crate) fn start() -> Self {
        let server = RedisServer::start();
        let runtime = threaded_runtime();
        let clock = ManualClock::at(Timestamp::from_micros(0));
        let proxy = runtime.block_on(ClockProxy::to(server.port(), &clock));
        let backend = RedisBackend::builder()
            .deny_cache(Duration::ZERO)
            .time_limit(Duration::from_secs(20))
            .connect_blocking(proxy.url())
            .expect("the request is allowed");
        Self {
            clock,
            backend,
            vectors: 0,
            _proxy: proxy,
            _runtime: runtime,
            _server: server,
        }
    }
}

#[cfg(feature = "blocking")]
impl Subjects for Blocking {
    const NAME: &str = "Redis from plain threads";

    fn next(&mut self, _: &Policy) -> impl Subject + use<'_> {
        self.vectors += 1;
        crate::subject::Threads {
            backend: self.backend.clone(),
            clock: self.clock.clone(),
            key: Key::from(self.vectors),
        }
    }
}

/// A runtime whose tasks run while the test blocks.
#[cfg(any(feature = "blocking", all(feature = "cluster", feature = "sentinel")))]
fn threaded_runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime")
}
