//! Network failures: a sent request may have taken effect, without a reply.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::sleep;
use tower_sluice::backend::BackendErrorKind;
use tower_sluice::backend::redis::{Atomicity, RedisBuilder};
use tower_sluice::{Key, Limiter, RedisBackend};

use crate::harness::{
    LIMIT, Redis, assert_each_failure_policy, assert_fails_closed, assert_fails_open, check,
    check_error, distinct, guarded, redis_decides, spent, tokens, uncached_builder,
    wait_for_recovery,
};
use crate::support::proxy::{Mode, Proxy};
use crate::support::redis::RedisServer;

/// A server, a proxy in front of it, a backend that uses the proxy, and one that connects directly.
pub(crate) struct ProxiedServer {
    pub(crate) server: RedisServer,
    pub(crate) proxy: Proxy,
    pub(crate) through: RedisBackend,
    pub(crate) direct: RedisBackend,
}

impl ProxiedServer {
    pub(crate) async fn open() -> Self {
        Self::by(uncached_builder()).await
    }

    pub(crate) async fn by(builder: RedisBuilder) -> Self {
        let server = RedisServer::start();
        let proxy = Proxy::to(server.port()).await;
        let through = builder.connect(proxy.url()).await;
        let direct = uncached_builder().connect(server.url()).await;
        let server = Self {
            server,
            proxy,
            through: through.expect("the request is allowed"),
            direct: direct.expect("the server runs"),
        };
        // Opens connections. On a busy machine this may exceed the time limit.
        let warm = distinct(&server.through, 64);
        for _ in 0..3 {
            let key = Key::from("first");
            let all = warm.iter().map(|limiter| async {
                while check(limiter, &key).await.is_err() {
                    sleep(Duration::from_millis(10)).await;
                }
            });
            join_all(all).await;
        }
        server
    }

    /// The same limiter through the proxy and beside it.
    pub(crate) fn both(&self, limit: u64) -> (Redis, Redis) {
        let policy = tokens("api", limit);
        let limiter = |backend: &RedisBackend| Limiter::new(policy.clone(), backend.clone());
        (limiter(&self.through), limiter(&self.direct))
    }
}

/// Sequential checks, every second of which loses its reply. Each one is charged once and sent once.
async fn assert_charged_once(builder: RedisBuilder, cuts: impl IntoIterator<Item = Mode>) {
    let server = ProxiedServer::by(builder).await;
    let (through, direct) = server.both(1000);
    let key = Key::from("ann");
    let mut charged = 0;
    for cut in cuts {
        let before = server.proxy.decisions();
        server.proxy.set(cut).await;
        assert_eq!(
            check_error(&through, &key).await,
            BackendErrorKind::Lost,
            "{cut:?}"
        );
        charged += 1;
        assert_eq!(server.proxy.decisions() - before, 1, "sent once");
        assert_eq!(spent(&direct, &key).await, charged);
        // Another connection serves the next check at once.
        charged += 1;
        assert_eq!(check(&through, &key).await, Ok(charged));
        assert_eq!(server.proxy.decisions() - before, 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_cut_after_the_request_charges_once() {
    let cuts = [Mode::CutAfterRequest(1); 20];
    guarded(assert_charged_once(uncached_builder(), cuts)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_cut_in_the_reply_charges_once() {
    // Before the reply, at each of its bytes, and before the last byte.
    let cuts = (0..24).chain([1 << 20]);
    guarded(assert_charged_once(
        uncached_builder(),
        cuts.map(|bytes| Mode::CutInReply(1, bytes)),
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transaction_with_a_cut_reply_charges_once() {
    let optimistic = uncached_builder().atomicity(Atomicity::Optimistic);
    let cuts = (0..8).map(|bytes| Mode::CutInReply(1, bytes));
    guarded(assert_charged_once(
        optimistic,
        cuts.chain([Mode::CutAfterRequest(1); 4]),
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failure_policy_applies_to_a_cut_connection() {
    guarded(async {
        let server = ProxiedServer::open().await;
        for (i, mode) in [Mode::CutAfterRequest(1), Mode::CutInReply(1, 3)]
            .into_iter()
            .enumerate()
        {
            let key = Key::from(format!("ann{i}").as_str());
            let (through, direct) = server.both(2);
            server.proxy.set(mode).await;
            assert_fails_closed(&through, &key).await;
            assert_eq!(spent(&direct, &key).await, 2, "the request was charged");
            server.proxy.set(mode).await;
            // Redis would deny these requests: their replies are lost too.
            assert_fails_open(&through, &key).await;
            redis_decides(&through, &Key::from(format!("bob{i}").as_str())).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interrupted_batch_charges_each_request_once() {
    guarded(async {
        let server = ProxiedServer::open().await;
        let through = distinct(&server.through, 128);
        let direct = distinct(&server.direct, 128);
        let mut lost = 0;
        for round in 0..20 {
            let key = Key::from(format!("u{round}").as_str());
            server
                .proxy
                .set(match round % 2 {
                    0 => Mode::CutAfterRequest(1 + round % 3),
                    _ => Mode::CutInReply(1 + round % 3, round * 10),
                })
                .await;
            let all = join_all(through.iter().map(|limiter| check(limiter, &key))).await;
            server.proxy.set(Mode::Pass).await;
            for (answer, direct) in all.into_iter().zip(&direct) {
                let spent = spent(direct, &key).await;
                match answer {
                    Ok(count) => assert_eq!((count, spent), (1, 1)),
                    // A timeout, if the request was sent at the moment of the cut.
                    Err(BackendErrorKind::Lost | BackendErrorKind::Timeout(LIMIT)) => {
                        assert!(spent <= 1, "charged twice");
                        lost += 1;
                    }
                    Err(why) => panic!("{why:?}"),
                }
            }
            let key = Key::from("after");
            while check(&through[0], &key).await.is_err() {}
        }
        assert!(lost >= 20, "{lost}: nothing was cut");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_are_read_byte_by_byte() {
    guarded(async {
        let server =
            ProxiedServer::by(uncached_builder().time_limit(Duration::from_secs(15))).await;
        let through = distinct(&server.through, 64);
        server.proxy.set(Mode::Trickle(Duration::ZERO)).await;
        for round in 1..=3 {
            let key = Key::from("ann");
            let all = join_all(through.iter().map(|limiter| check(limiter, &key))).await;
            assert!(all.iter().all(|spent| *spent == Ok(round)), "{all:?}");
        }
        server
            .proxy
            .set(Mode::Trickle(Duration::from_millis(1)))
            .await;
        let key = Key::from("bob");
        assert_eq!(check(&through[0], &key).await, Ok(1));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_replies_reach_no_request() {
    guarded(async {
        let server = ProxiedServer::open().await;
        let through = distinct(&server.through, 64);
        let direct = distinct(&server.direct, 64);
        let key = Key::from("ann");
        // A request has hundreds of bytes: it takes longer than the time limit, and a batch far longer.
        server
            .proxy
            .set(Mode::Trickle(Duration::from_millis(2)))
            .await;
        let start = Instant::now();
        let all = join_all(through.iter().map(|limiter| check(limiter, &key))).await;
        assert!(all.iter().any(Result::is_err));
        for answer in all {
            // Lost, if it shared the connection of a request that timed out.
            use BackendErrorKind::{Lost, Timeout};
            assert!(
                matches!(answer, Ok(1) | Err(Timeout(LIMIT) | Lost)),
                "{answer:?}"
            );
        }
        assert_each_failure_policy(&through[0], &key).await;
        server.proxy.set(Mode::Pass).await;
        wait_for_recovery(&through[0], &key, start.elapsed(), "a slow network").await;
        for round in 1..=3 {
            let all = join_all(through.iter().map(|limiter| check(limiter, &key))).await;
            for (answer, direct) in all.into_iter().zip(&direct).skip(1) {
                let counted = answer.expect("the network works");
                assert!((round..=round + 1).contains(&counted), "{counted}");
                assert_eq!(spent(direct, &key).await, counted);
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn circuit_opens_when_all_replies_are_lost_and_a_probe_closes_it() {
    guarded(async {
        let server = ProxiedServer::open().await;
        let (through, direct) = server.both(1000);
        let key = Key::from("ann");
        assert_eq!(check(&through, &key).await, Ok(1));
        server.proxy.set(Mode::Swallow).await;
        let start = Instant::now();
        // A timeout on an established connection, then connections that are never established.
        let first = check_error(&through, &key).await;
        assert_eq!(first, BackendErrorKind::Timeout(LIMIT));
        for _ in 1..5 {
            let why = check_error(&through, &key).await;
            let late = [
                BackendErrorKind::Timeout(LIMIT),
                BackendErrorKind::Unreachable,
            ];
            assert!(late.contains(&why), "{why:?}");
        }
        let asked = (server.proxy.connections(), Instant::now());
        for _ in 0..100 {
            assert_eq!(
                check_error(&through, &key).await,
                BackendErrorKind::CircuitOpen
            );
        }
        assert_each_failure_policy(&through, &key).await;
        if asked.1.elapsed() < Duration::from_millis(700) {
            assert!(
                server.proxy.connections() <= asked.0 + 1,
                "a command was sent to Redis"
            );
        }
        server.proxy.set(Mode::Pass).await;
        // The earlier connections stay dead, although neither side has closed them.
        wait_for_recovery(&through, &key, start.elapsed(), "a network that swallows").await;
        let charged = spent(&direct, &key).await;
        assert_eq!(charged, 2, "a dropped request reached Redis");
        assert_eq!(check(&through, &key).await, Ok(3));
        drop(server.server);
    })
    .await;
}

/// Each transaction waits for the only connection, most without success. This is not a failure of Redis.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contended_transactions_do_not_open_the_circuit() {
    guarded(async {
        let server = ProxiedServer::open().await;
        let backend = uncached_builder()
            .atomicity(Atomicity::Optimistic)
            .connections(NonZeroU32::MIN)
            .time_limit(Duration::from_secs(1))
            .connect(server.proxy.url());
        let limiter = Limiter::new(
            tokens("api", 1000),
            backend.await.expect("the request is allowed"),
        );
        let key = Key::from("ann");
        assert_eq!(check(&limiter, &key).await, Ok(1));
        // A transaction has hundreds of bytes: few complete within a second.
        let slow = Mode::Trickle(Duration::from_millis(1));
        server.proxy.set(slow).await;
        let transactions = join_all((0..20).map(|_| check(&limiter, &key))).await;
        let failed = transactions
            .iter()
            .filter(|outcome| outcome.is_err())
            .count();
        assert!(
            failed > 10,
            "no transaction was denied a connection: {transactions:?}"
        );
        server.proxy.set(Mode::Pass).await;
        let after = check(&limiter, &key).await;
        assert_ne!(after, Err(BackendErrorKind::CircuitOpen));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn network_is_used_again_after_an_outage() {
    guarded(async {
        let server = ProxiedServer::open().await;
        let (through, direct) = server.both(1000);
        let key = Key::from("ann");
        assert_eq!(check(&through, &key).await, Ok(1));
        server.proxy.set(Mode::Refuse).await;
        let start = Instant::now();
        let first = check_error(&through, &key).await;
        use BackendErrorKind::{Lost, Timeout, Unreachable};
        assert!(
            matches!(first, Lost | Timeout(LIMIT) | Unreachable),
            "{first:?}"
        );
        assert_each_failure_policy(&through, &key).await;
        server.proxy.set(Mode::Pass).await;
        wait_for_recovery(&through, &key, start.elapsed(), "a network that refuses").await;
        assert_eq!(spent(&direct, &key).await, 2);
    })
    .await;
}
