//! The cost of a decision on a real server: commands, µs, and the expiry of its keys.

mod expiry;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use redis::Value;
use tower_sluice::backend::BackendError;
use tower_sluice::backend::redis::RedisBuilder;
use tower_sluice::backend::redis::adapter::RedisConnection;
use tower_sluice::{Key, Limiter, Policy, Quota, RedisBackend};

use crate::support::redis::RedisServer;

const DAY: Duration = Duration::from_secs(86_400);

/// No window of these ends during a test, except in one night in three years.
const AGE: Duration = Duration::from_secs(1_000 * 86_400);

/// How often each operation is measured.
const TIMES: u64 = 1_000;

/// The keys of a batch: one is sent alone, and the others are sent together after it.
const TOGETHER: u64 = 65;

/// The algorithms with more tokens than needed, and with one token.
fn algorithms() -> [(&'static str, Quota, Quota); 5] {
    [
        ("bucket", Quota::per_day(4_000_000_000), Quota::per_day(1)),
        (
            "interval bucket",
            Quota::interval_bucket(4_000_000_000, 4_000_000_000, DAY),
            Quota::interval_bucket(1, 1, DAY),
        ),
        (
            "fixed window",
            Quota::fixed_window(4_000_000_000, AGE),
            Quota::fixed_window(1, AGE),
        ),
        (
            "sliding window",
            Quota::sliding_window(4_000_000_000, AGE),
            Quota::sliding_window(1, AGE),
        ),
        (
            "sliding log",
            Quota::sliding_log(65_535, AGE),
            Quota::sliding_log(1, AGE),
        ),
    ]
}

fn builder() -> RedisBuilder {
    RedisBackend::builder()
        .deny_cache(Duration::ZERO)
        .time_limit(Duration::from_secs(20))
}

async fn connect(server: &RedisServer, builder: RedisBuilder) -> RedisBackend {
    let client = redis::Client::open(server.url()).expect("a URL");
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    let connection = client.get_multiplexed_async_connection_with_config(&config);
    builder.from_transport(RedisConnection::new(connection.await.expect("a server")))
}

fn number(key: u64) -> Key {
    Key::from(key)
}

/// The calls of each command, and the µs in scripts, since the last read.
#[derive(Debug)]
struct CommandUsage {
    calls: BTreeMap<String, u64>,
    micros: u64,
}

impl CommandUsage {
    fn of(server: &RedisServer) -> Self {
        let stats: String = server.get(&["INFO", "commandstats"]);
        let mut usage = Self {
            calls: BTreeMap::new(),
            micros: 0,
        };
        for line in stats.lines() {
            let Some((name, numbers)) = line
                .strip_prefix("cmdstat_")
                .and_then(|line| line.split_once(':'))
            else {
                continue;
            };
            let field = |name: &str| -> u64 {
                let field = numbers
                    .split(',')
                    .find_map(|field| field.strip_prefix(name));
                field.expect("a field").parse().expect("a number")
            };
            // The test's own commands.
            if ["info", "config", "client", "ping", "hello"]
                .contains(&name.split('|').next().unwrap_or(name))
            {
                continue;
            }
            if name == "evalsha" {
                usage.micros = field("usec=");
            }
            usage.calls.insert(name.to_owned(), field("calls="));
        }
        let _: Value = server.get(&["CONFIG", "RESETSTAT"]);
        usage
    }

    /// Prints the cost of one of `count` operations, and checks that exactly these commands were sent.
    fn is(&self, what: &str, count: u64, expected: &[(&str, u64)]) {
        let each = |calls: u64| calls as f64 / count as f64;
        let reported: Vec<_> = self
            .calls
            .iter()
            .map(|(name, calls)| format!("{name} {}", (each(*calls) * 1e3).round() / 1e3))
            .collect();
        let micros = each(self.micros);
        // Written past the capture of the test harness: a passing run also shows the costs.
        writeln!(
            std::io::stderr(),
            "{what:<40} {micros:>6.1} µs  {}",
            reported.join(", ")
        )
        .expect("stderr");
        let expected: BTreeMap<_, _> = expected
            .iter()
            .map(|(name, calls)| ((*name).to_owned(), *calls))
            .collect();
        assert_eq!(self.calls, expected, "{what}, {count} of them");
    }

    fn is_each(&self, what: &str, expected: &[(&str, u64)]) {
        let all: Vec<_> = expected
            .iter()
            .map(|(name, calls)| (*name, calls * TIMES))
            .collect();
        self.is(what, TIMES, &all);
    }
}

/// Runs all of them at once, over one connection.
async fn all<T>(
    asked: impl IntoIterator<Item = impl Future<Output = Result<T, BackendError>>>,
) -> Vec<T> {
    try_join_all(asked).await.expect("Redis answers")
}

#[tokio::test]
async fn each_decision_sends_the_expected_commands() {
    let server = RedisServer::start();
    let backend = connect(&server, builder().batching(false)).await;
    let ann = Key::from("ann");
    for (index, (name, plenty, one)) in algorithms().into_iter().enumerate() {
        let is_log = index == 4;
        let limiter = Limiter::new(Policy::new("plenty", plenty), backend.clone());
        let _ = all([limiter.check(&ann, 1)]).await;
        let _ = CommandUsage::of(&server);
        // A longer log packs its entries into chunks now and then.
        let times = if is_log { 200 } else { TIMES };
        let replies = all((0..times).map(|_| limiter.check(&ann, 1))).await;
        assert!(replies.iter().all(|reply| reply.decision.is_allowed()));
        // One more read, for the whole batch, shows whether a key is blocked.
        let string = [
            ("evalsha", 1),
            ("time", 1),
            ("mget", 1),
            ("get", 1),
            ("set", 1),
        ];
        // The oldest entry, and the newest.
        let log = [
            ("evalsha", 1),
            ("time", 1),
            ("mget", 1),
            ("llen", 1),
            ("lindex", 2),
            ("rpush", 1),
            ("pexpire", 1),
        ];
        let allowed: &[_] = if is_log { &log } else { &string };
        let allowed: Vec<_> = allowed
            .iter()
            .map(|(name, calls)| (*name, calls * times))
            .collect();
        CommandUsage::of(&server).is(&format!("{name}, allowed"), times, &allowed);

        let limiter = Limiter::new(Policy::new("one", one), backend.clone());
        let _ = all([limiter.check(&ann, 1)]).await;
        let _ = CommandUsage::of(&server);
        let replies = all((0..TIMES).map(|_| limiter.check(&ann, 1))).await;
        assert!(!replies.iter().any(|reply| reply.decision.is_allowed()));
        let string = [("evalsha", 1), ("time", 1), ("mget", 1), ("get", 1)];
        let log = [
            ("evalsha", 1),
            ("time", 1),
            ("mget", 1),
            ("llen", 1),
            ("lindex", 2),
        ];
        let denied: &[_] = if is_log { &log } else { &string };
        CommandUsage::of(&server).is_each(&format!("{name}, denied"), denied);
    }
}

#[tokio::test]
async fn a_batch_reads_the_time_once() {
    let server = RedisServer::start();
    let backend = connect(&server, builder()).await;
    for (index, (name, plenty, one)) in algorithms().into_iter().enumerate() {
        for (policy, quota, spent) in [("plenty", plenty, false), ("one", one, true)] {
            let limiter = Limiter::new(Policy::new(policy, quota), backend.clone());
            let keys: Vec<_> = (0..TOGETHER).map(number).collect();
            let ask = || join_all(keys.iter().map(|key| limiter.check(key, 1)));
            let _: Vec<_> = ask().await;
            let _ = CommandUsage::of(&server);
            let rounds = 20;
            for _ in 0..rounds {
                for reply in ask().await {
                    assert_eq!(reply.expect("Redis").decision.is_allowed(), !spent);
                }
            }
            let count = rounds * TOGETHER;
            let trips = [
                ("evalsha", 2 * rounds),
                ("time", 2 * rounds),
                ("mget", 2 * rounds),
            ];
            let mut expected = trips.to_vec();
            match (index == 4, spent) {
                (false, false) => expected.extend([("get", count), ("set", count)]),
                (false, true) => expected.push(("get", count)),
                (true, false) => expected.extend([
                    ("llen", count),
                    ("lindex", 2 * count),
                    ("rpush", count),
                    ("pexpire", count),
                ]),
                (true, true) => expected.extend([("llen", count), ("lindex", 2 * count)]),
            }
            let word = if spent { "denied" } else { "allowed" };
            CommandUsage::of(&server).is(&format!("{name}, {word}, of a batch"), count, &expected);
        }
        let _: Value = server.get(&["FLUSHALL"]);
        let _ = CommandUsage::of(&server);
    }
}

#[tokio::test]
async fn each_operation_sends_the_expected_commands() {
    let server = RedisServer::start();
    let backend = connect(&server, builder().batching(false)).await;
    let ann = Key::from("ann");
    let [(_, bucket, one), (_, interval, _), (_, fixed, _), ..] = algorithms();
    let three = Policy::new("three", bucket)
        .and("interval", interval)
        .and("fixed", fixed);
    let limiter = Limiter::new(three, backend.clone());
    let _ = all([limiter.check(&ann, 1)]).await;
    let _ = CommandUsage::of(&server);
    let _ = all((0..TIMES).map(|_| limiter.check(&ann, 1))).await;
    let writes = [
        ("evalsha", 1),
        ("time", 1),
        ("mget", 1),
        ("get", 3),
        ("set", 3),
    ];
    CommandUsage::of(&server).is_each("three quotas, allowed", &writes);

    let denying = Policy::new("refuse", bucket)
        .and("one", one)
        .and("fixed", fixed);
    let limiter = Limiter::new(denying, backend.clone());
    let _ = all([limiter.check(&ann, 1)]).await;
    let _ = CommandUsage::of(&server);
    let _ = all((0..TIMES).map(|_| limiter.check(&ann, 1))).await;
    let looks = [("evalsha", 1), ("time", 1), ("mget", 1), ("get", 3)];
    CommandUsage::of(&server).is_each("three quotas, denied", &looks);

    let write = [("evalsha", 1), ("time", 1), ("get", 1), ("set", 1)];
    let limiter = Limiter::new(Policy::new("turns", one), backend.clone());
    let keys: Vec<_> = (0..=TIMES).map(number).collect();
    let later = async |key: &Key| limiter.reserve(key, 1, 9 * DAY).await;
    // The second reservation of each key is due a day later.
    let _ = all(keys.iter().map(later)).await;
    let _ = CommandUsage::of(&server);
    let reservations = all(keys[1..].iter().map(later)).await;
    let reserve = [
        ("evalsha", 1),
        ("time", 1),
        ("mget", 1),
        ("get", 1),
        ("set", 1),
    ];
    CommandUsage::of(&server).is_each("a reservation", &reserve);
    let first = all([later(&keys[0])]).await.into_iter();
    let mut reservations = first.chain(reservations).map(|reply| {
        assert!(reply.wait > Duration::ZERO);
        reply.reservation.expect("a reservation")
    });
    let warm = reservations.next().expect("the first");
    assert!(limiter.cancel(&keys[0], warm).await.expect("Redis"));
    let _ = CommandUsage::of(&server);
    let back = all(keys[1..]
        .iter()
        .zip(reservations)
        .map(|(key, reservation)| limiter.cancel(key, reservation)))
    .await;
    assert!(back.into_iter().all(|back| back));
    CommandUsage::of(&server).is_each("a cancelled reservation", &write);

    let limiter = Limiter::new(Policy::new("plenty", bucket), backend.clone());
    let mut replies = all((0..=TIMES).map(|_| limiter.check(&ann, 2))).await;
    let mut receipts = replies
        .iter_mut()
        .map(|reply| reply.receipt.as_mut().expect("of a charge"));
    let warm = receipts.next().expect("the first");
    let _ = all([limiter.refund(&ann, warm, 1)]).await;
    let _ = all([limiter.penalize(&ann, 1)]).await;
    let _ = CommandUsage::of(&server);
    let _ = all(receipts.map(|receipt| limiter.refund(&ann, receipt, 1))).await;
    CommandUsage::of(&server).is_each("a refund", &write);
    let _ = all((0..TIMES).map(|_| limiter.penalize(&ann, 1))).await;
    CommandUsage::of(&server).is_each("a penalty", &write);
    let _ = all((0..TIMES).map(|_| limiter.peek(&ann))).await;
    let look = [("evalsha", 1), ("time", 1), ("mget", 1), ("get", 1)];
    CommandUsage::of(&server).is_each("a snapshot", &look);

    let limiter = Limiter::new(Policy::new("turns", one), backend);
    let _ = all([limiter.reset(&ann)]).await;
    let _ = CommandUsage::of(&server);
    let _ = all(keys[1..].iter().map(|key| limiter.reset(key))).await;
    let reset = [("evalsha", 1), ("time", 1), ("get", 1), ("del", 1)];
    CommandUsage::of(&server).is_each("a reset", &reset);
}
