//! A misconfigured Redis, with a service that fails open: operators see it at once.
//!
//! It runs in a process of its own, because one subscriber gets the events of all threads.

mod support;

use std::convert::Infallible;
use std::fmt::Debug;
use std::sync::Once;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use parking_lot::Mutex;
use tower::{Layer, ServiceExt};
use tower_sluice::backend::redis::{Atomicity, RedisBuilder};
use tower_sluice::backend::{BackendError, BackendErrorKind};
use tower_sluice::key::{KeyError, KeyExtractor};
use tower_sluice::{FailurePolicy, Key, Limiter, Policy, Quota, RateLimitLayer, RedisBackend};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::support::free_port;
use crate::support::redis::{Options, RedisServer};

static EVENTS: Mutex<Vec<(ThreadId, String)>> = Mutex::new(Vec::new());

struct Events;

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0 += &format!(" {field}={value:?}");
    }
}

impl Subscriber for Events {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("tower_sluice")
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        EVENTS.lock().push((thread::current().id(), line.0));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Runs a test in this thread, with its own events.
fn run(test: impl Future<Output = ()>) {
    static SET: Once = Once::new();
    SET.call_once(|| tracing::subscriber::set_global_default(Events).expect("the first"));
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().expect("a runtime");
    runtime.block_on(test);
}

/// The events of this test at one level.
fn events(level: &str) -> Vec<String> {
    let (events, own) = (EVENTS.lock(), thread::current().id());
    let own = events.iter().filter(|(thread, _)| *thread == own);
    let lines = own.map(|(_, line)| line.clone());
    lines.filter(|line| line.starts_with(level)).collect()
}

/// Checks that there is one more error than before, with its remedy and without a key or a password.
fn one_more(count: usize, remedy: &str) {
    let errors = events("ERROR");
    assert_eq!(errors.len(), count, "{errors:#?}");
    let last = errors.last().expect("one at least");
    assert!(last.contains(remedy), "{last}");
    assert!(!last.contains("ann") && !last.contains("sesame"), "{last}");
}

fn lazy(url: &str) -> RedisBackend {
    uncached_builder().connect_lazy(url).expect("a URL")
}

fn uncached_builder() -> RedisBuilder {
    let builder = RedisBackend::builder().deny_cache(Duration::ZERO);
    builder.time_limit(Duration::from_secs(5))
}

fn policy() -> Policy {
    Policy::new("api", Quota::per_day(1).burst(1000))
}

#[derive(Clone, Debug)]
struct Always(Key);

impl<R> KeyExtractor<R> for Always {
    fn key(&self, _: &R) -> Result<Key, KeyError> {
        Ok(self.0.clone())
    }
}

/// Twenty requests of this key, all of which are allowed.
async fn assert_all_allowed(backend: &RedisBackend, key: &str) {
    let layer = RateLimitLayer::new(policy(), Always(Key::from(key)), backend.clone())
        .on_backend_error(FailurePolicy::FailOpen);
    let hello =
        |_: Request<()>| async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("hello"))) };
    let service = layer.layer(tower::service_fn(hello));
    for _ in 0..20 {
        let response = service.clone().oneshot(Request::new(())).await;
        assert_eq!(response.expect("no error").status(), StatusCode::OK);
    }
}

async fn decides(backend: &RedisBackend) {
    let limiter = Limiter::new(policy(), backend.clone());
    let start = Instant::now();
    while let Err(why) = limiter.check(&Key::from("bob"), 1).await {
        assert!(start.elapsed() < Duration::from_secs(10), "{why:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// `connect` reports it, by a typed error and an event.
async fn assert_detected_at_connect(url: &str, code: &str, remedy: &str) {
    let before = events("ERROR").len();
    let why = uncached_builder()
        .connect(url)
        .await
        .expect_err("the server cannot decide");
    assert_eq!(*why.kind(), BackendErrorKind::Server(code.to_owned()));
    one_more(before + 1, remedy);
    if code != "ERR" {
        assert!(why.to_string().contains(remedy), "{why}");
    }
}

const RIGHTS: &str = "grant the commands and keys that `tower_sluice::backend::redis` lists";

#[test]
fn missing_right_is_reported_once_for_each_occurrence() {
    run(async {
        for missing in ["-evalsha", "-eval", "-set", "-time", "resetkeys ~other:*"] {
            let before = events("ERROR").len();
            let all = "user limiter on >sesame ~{sluice:* +@all";
            let server = RedisServer::options().line(all).start();
            let url = server.url_of("limiter", "sesame");
            let change = |rights: &str| {
                let words = ["ACL", "SETUSER", "limiter"].into_iter();
                let words: Vec<_> = words.chain(rights.split(' ')).collect();
                server.command(&words);
            };
            change(missing);
            let backend = lazy(&url);
            assert_all_allowed(&backend, "ann").await;
            one_more(before + 1, RIGHTS);
            change("+@all ~{sluice:*");
            decides(&backend).await;
            // A loaded script needs no `EVAL`.
            server.command(&["SCRIPT", "FLUSH"]);
            change(missing);
            assert_all_allowed(&backend, "ann").await;
            one_more(before + 2, RIGHTS);
            assert_detected_at_connect(&url, "NOPERM", RIGHTS).await;
        }
    });
}

#[test]
fn full_server_is_reported_while_denials_work() {
    run(async {
        let server = RedisServer::options().line("maxmemory-policy noeviction");
        let server = server.start();
        let backend = lazy(&server.url());
        decides(&backend).await;
        let limiter = Limiter::new(policy(), backend.clone());
        let cid = Key::from("cid");
        let spent = limiter.check(&cid, 1000).await.expect("Redis");
        assert!(spent.decision.is_allowed());
        for full in 0..2 {
            server.command(&["CONFIG", "SET", "maxmemory", "1"]);
            for _ in 0..3 {
                assert_all_allowed(&backend, "ann").await;
                let denied = limiter
                    .check(&cid, 1)
                    .await
                    .expect("the operation writes nothing");
                assert!(!denied.decision.is_allowed());
                limiter
                    .peek(&cid)
                    .await
                    .expect("the operation writes nothing");
            }
            one_more(2 * full + 1, "raise maxmemory");
            assert_detected_at_connect(&server.url(), "OOM", "raise maxmemory").await;
            server.command(&["CONFIG", "SET", "maxmemory", "0"]);
            decides(&backend).await;
        }
    });
}

#[test]
fn foreign_key_is_reported_once_beside_valid_keys() {
    run(async {
        let server = RedisServer::start();
        let backend = uncached_builder()
            .connect(server.url())
            .await
            .expect("the server runs");
        server.command(&["RPUSH", "{sluice:api:rann}:b", "1"]);
        for _ in 0..3 {
            assert_all_allowed(&backend, "ann").await;
            assert_all_allowed(&backend, "bob").await;
        }
        one_more(1, "delete the key, or set another prefix");
    });
}

#[test]
fn replica_is_reported() {
    run(async {
        let server = RedisServer::start();
        let backend = uncached_builder()
            .connect(server.url())
            .await
            .expect("a primary");
        let closed = free_port().to_string();
        server.command(&["REPLICAOF", "127.0.0.1", &closed]);
        assert_all_allowed(&backend, "ann").await;
        one_more(1, "connect to the primary");
        assert_detected_at_connect(&server.url(), "READONLY", "connect to the primary").await;
    });
}

fn cluster_node() -> RedisServer {
    let options: Options = RedisServer::options().line("cluster-enabled yes");
    options.line("cluster-require-full-coverage no").start()
}

const STANDALONE: &str = "use a URL of the whole cluster, as in redis+cluster://";

#[test]
fn cluster_node_is_reported_once_beside_its_own_keys() {
    run(async {
        let nodes = [cluster_node(), cluster_node()];
        assert_detected_at_connect(&nodes[0].url(), "CLUSTERDOWN", STANDALONE).await;
        for (node, slots) in nodes.iter().zip([0..8_192, 8_192..16_384]) {
            node.add_slots(slots);
        }
        let port = nodes[1].port().to_string();
        nodes[0].command(&["CLUSTER", "MEET", "127.0.0.1", &port]);
        let start = Instant::now();
        let knows = |node: &RedisServer| {
            let info: String = node.get(&["CLUSTER", "INFO"]);
            info.contains("cluster_slots_assigned:16384") && info.contains("cluster_state:ok")
        };
        while !nodes.iter().all(knows) {
            assert!(start.elapsed() < Duration::from_secs(20), "no cluster");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let backend = lazy(&nodes[0].url());
        for key in 0..16 {
            assert_all_allowed(&backend, &key.to_string()).await;
        }
        one_more(2, STANDALONE);
        assert_detected_at_connect(&nodes[0].url(), "MOVED", STANDALONE).await;
    });
}

#[test]
fn wrong_or_missing_password_is_reported() {
    run(async {
        let server = RedisServer::options().password("sesame").start();
        let without = format!("redis://127.0.0.1:{}/", server.port());
        let urls = [
            server.url_of("", "sesame0"),
            server.url_of("bob", "sesame"),
            without,
        ];
        for (number, url) in urls.iter().enumerate() {
            assert_all_allowed(&lazy(url), "ann").await;
            one_more(
                2 * number + 1,
                "set user and password in the URL, as in redis://user:password@host",
            );
            let why: BackendError = uncached_builder()
                .connect(url)
                .await
                .expect_err("the password is wrong");
            let kinds = [
                BackendErrorKind::Unreachable,
                BackendErrorKind::Server("NOAUTH".to_owned()),
            ];
            assert!(kinds.contains(why.kind()), "{why:?}");
            one_more(2 * number + 2, "set user and password in the URL");
        }
    });
}

#[test]
fn server_without_scripts_is_reported() {
    run(async {
        for (number, unknown) in ["EVAL", "EVALSHA"].into_iter().enumerate() {
            let line = format!("rename-command {unknown} \"\"");
            let server = RedisServer::options().line(&line).start();
            let remedy = "enable EVAL and EVALSHA, or set `Atomicity::Optimistic`";
            let backend = lazy(&server.url());
            assert_all_allowed(&backend, "ann").await;
            one_more(2 * number + 1, remedy);
            assert_detected_at_connect(&server.url(), "ERR", remedy).await;
            let optimistic = uncached_builder().atomicity(Atomicity::Optimistic);
            let backend = optimistic.connect(server.url()).await;
            decides(&backend.expect("no scripts are needed")).await;
        }
    });
}

#[test]
fn connect_needs_only_the_documented_rights_and_leaves_no_key() {
    run(async {
        let rights = "-@all +evalsha +eval +time +ping +get +mget +set +del";
        let user = format!("user limiter on >sesame resetkeys ~{{theirs:* {rights}");
        let server = RedisServer::options().line(&user).start();
        let url = server.url_of("limiter", "sesame");
        let backend = uncached_builder().prefix("theirs").connect(&url).await;
        assert_eq!(server.keys(), [""; 0]);
        decides(&backend.expect("nothing is missing")).await;
        assert_eq!(events("ERROR"), [""; 0]);
    });
}

#[test]
fn the_events_of_a_circuit_carry_the_error_that_opened_it() {
    run(async {
        let mut server = RedisServer::options().prepare();
        let backend = lazy(&server.url());
        assert_all_allowed(&backend, "ann").await;
        let opened = events("WARN");
        assert_eq!(opened.len(), 1, "{opened:#?}");
        let message = "Redis circuit opened after 5 consecutive failures; next attempt in 1s";
        assert!(opened[0].contains(message), "{opened:?}");
        let error = "error=no connection to Redis: Connection refused";
        assert!(opened[0].contains(error), "{opened:?}");
        server.restart();
        decides(&backend).await;
        let closed = events("INFO");
        assert_eq!(closed.len(), 1, "{closed:#?}");
        assert!(closed[0].contains("Redis circuit closed"), "{closed:?}");
        assert!(closed[0].contains(error), "{closed:?}");
    });
}
