//! A 32-bit server, whose Lua loses the upper half of 64-bit integers, is rejected. One is real, and one only reads
//! numbers like it.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Arg, Cmd, Pipeline, RedisFuture, Value};
use tower_sluice::backend::redis::adapter::RedisConnection;
use tower_sluice::backend::{BackendError, BackendErrorKind};
use tower_sluice::semaphore::AcquireError;
use tower_sluice::{
    Key, Limiter, Policy, RedisBackend, RedisSemaphore, Semaphore, SemaphorePolicy,
};

use crate::contents::each_algorithm;
use crate::harness::{guarded, uncached_builder};
use crate::support::redis::RedisServer;

fn is_rejected(error: &BackendError) {
    let kind = error.kind();
    let reported = matches!(kind, BackendErrorKind::Config(why) if why.contains("32-bit"));
    assert!(reported, "{error:?}");
}

/// No operation is done, and the error is not an outage: the circuit stays closed.
async fn assert_rejects_everything(server: &RedisServer, backend: RedisBackend) {
    let key = Key::from("ann");
    let quotas = each_algorithm(5).map(|policy| policy.quotas()[0].clone());
    let quotas = quotas
        .each_ref()
        .map(|named| (named.name(), *named.quota()));
    let several = Policy::try_from_quotas("several", quotas).expect("names");
    for policy in each_algorithm(5).into_iter().chain([several]) {
        let limiter = Limiter::new(policy, backend.clone());
        for _ in 0..10 {
            let wait = Duration::from_secs(1);
            is_rejected(&limiter.check(&key, 1).await.expect_err("rejected"));
            is_rejected(&limiter.reserve(&key, 1, wait).await.expect_err("rejected"));
            is_rejected(&limiter.penalize(&key, 1).await.expect_err("rejected"));
            is_rejected(&limiter.peek(&key).await.expect_err("rejected"));
            is_rejected(&limiter.reset(&key).await.expect_err("rejected"));
        }
    }
    let permits = SemaphorePolicy::new("exports", 5);
    let semaphore = Semaphore::new(permits, RedisSemaphore::new(&backend));
    let wait = Duration::from_millis(10);
    for outcome in [
        semaphore.try_acquire(&key, 1).await,
        semaphore.acquire(&key, 1, wait).await,
    ] {
        match outcome {
            Err(AcquireError::Backend(error)) => is_rejected(&error),
            other => panic!("{other:?}"),
        }
    }
    is_rejected(&semaphore.peek(&key).await.expect_err("rejected"));
    assert!(server.keys().is_empty(), "{:?}", server.keys());
}

/// Packed quotas arrive without the upper halves of their numbers, and a `long` has four bytes.
#[derive(Clone)]
struct Narrow(MultiplexedConnection);

fn narrowed(arg: &[u8]) -> Vec<u8> {
    let is_quota = (9..64).contains(&arg.len()) && arg.len() % 8 == 1 && b"bifsl".contains(&arg[0]);
    if !is_quota {
        let text = String::from_utf8(arg.to_vec());
        return text.map_or(arg.to_vec(), |text| {
            text.replace("struct.size('l')", "4").into_bytes()
        });
    }
    let mut narrowed = arg.to_vec();
    for number in narrowed[1..].chunks_exact_mut(8) {
        let sign = if number[3] & 0x80 == 0 { 0 } else { 0xff };
        number[4..].fill(sign);
    }
    narrowed
}

impl ConnectionLike for Narrow {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        let mut seen = Cmd::new();
        for arg in command.args_iter() {
            match arg {
                Arg::Simple(bytes) => seen.arg(narrowed(bytes)),
                other => panic!("an argument of another kind: {other:?}"),
            };
        }
        Box::pin(async move { self.0.send_packed_command(&seen).await })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.0.req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.0.get_db()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_without_64_bit_integers_is_rejected() {
    guarded(async {
        let server = RedisServer::start();
        let client = redis::Client::open(server.url()).expect("a URL");
        let connection = client.get_multiplexed_async_connection().await;
        let narrow = Narrow(connection.expect("the server runs"));
        assert_rejects_everything(
            &server,
            uncached_builder().from_transport(RedisConnection::new(narrow)),
        )
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_32_bit_server_is_rejected() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/redis32");
    let program = folder.join("redis-server");
    if !program.exists() {
        // Written directly, because `eprintln` is captured.
        let mut stderr = std::io::stderr();
        let reported =
            "NOT TESTED: a real 32-bit server; tests/redis32.sh target/redis32 gets one\n";
        stderr.write_all(reported.as_bytes()).expect("stderr");
        return;
    }
    guarded(async {
        let server = RedisServer::options().program(&program).start();
        let bits: String = server.get(&["INFO", "server"]);
        assert!(bits.contains("arch_bits:32"), "{bits}");
        // Connecting detects it. The scripts detect it themselves after a replacement by such a server.
        let connected = uncached_builder().connect(server.url()).await;
        is_rejected(&connected.expect_err("rejected"));
        let backend = uncached_builder()
            .connect_lazy(server.url())
            .expect("a URL");
        assert_rejects_everything(&server, backend).await;
        #[cfg(feature = "blocking")]
        {
            let url = server.url();
            tokio::task::spawn_blocking(|| from_a_thread(url))
                .await
                .expect("no panic");
        }
    })
    .await;
}

#[cfg(feature = "blocking")]
fn from_a_thread(url: String) {
    use tower_sluice::blocking;
    let key = Key::from("ann");
    is_rejected(&blocking::RedisBackend::connect(&url).expect_err("rejected"));
    let backend = blocking::RedisBackend::connect_lazy(url).expect("a URL");
    for policy in each_algorithm(5) {
        let limiter = blocking::Limiter::new(policy, backend.clone());
        is_rejected(&limiter.check(&key, 1).expect_err("rejected"));
        is_rejected(&limiter.penalize(&key, 1).expect_err("rejected"));
    }
    let semaphore = blocking::Semaphore::new(SemaphorePolicy::new("exports", 5), backend);
    is_rejected(&semaphore.peek(&key).expect_err("rejected"));
}
