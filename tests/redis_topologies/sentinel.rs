//! A primary with two replicas and three sentinels: failovers, planned ones and others.

use std::time::{Duration, Instant};

use tokio::task::block_in_place;
use tower_sluice::{AnyBackend, Key, Limiter, Policy, Quota, RedisBackend};

use crate::load::{recovery, under_load};
use crate::support::cluster::until;
use crate::support::sentinels::{NAME, Sentinels, Settings};
use crate::{alone, runtime};

#[test]
fn connections_follow_the_primary() {
    let mut servers = Sentinels::start(2);
    let _alone = alone();
    runtime().block_on(async {
        let backend = RedisBackend::builder()
            .deny_cache(Duration::ZERO)
            .connect(servers.url())
            .await
            .expect("a primary");

        // A planned failover: the old primary goes on answering until a sentinel makes it a replica.
        let (report, ()) = under_load("SENTINEL FAILOVER", &backend, async {
            block_in_place(|| {
                let before = servers.primary();
                until("the sentinels accept the failover", || {
                    servers.sentinels[0]
                        .try_get::<()>(&["SENTINEL", "FAILOVER", NAME])
                        .is_ok()
                });
                until("another server is the primary", || {
                    servers.primary() != before
                });
                servers.settle();
            });
        })
        .await;
        // Charges of the old primary after the promotion are gone.
        let traffic = Duration::from_secs_f64(report.forgotten as f64 / report.rate());
        println!("    over-admission: {traffic:.2?} of traffic");
        assert!(traffic <= Duration::from_millis(200), "{report}");
        assert_eq!((report.unanswered, report.double), (0, 0));
        assert!(report.silence < Duration::from_secs(2), "{report}");

        // The primary dies.
        let old = servers.primary();
        let (report, back) = under_load("kill -9 of the primary", &backend, async {
            servers.servers[old].kill9();
            let start = Instant::now();
            block_in_place(|| {
                until("another server is the primary", || servers.primary() != old);
            });
            let took_over = start.elapsed();
            recovery(&backend).await;
            (took_over, start.elapsed())
        })
        .await;
        println!(
            "    a replica took over after {:.2?}, and all keys had answers after {:.2?}",
            back.0, back.1
        );
        assert_eq!((report.unanswered, report.double), (0, 0));
        assert!(
            back.1 - back.0.min(back.1) < Duration::from_secs(3),
            "{back:?}"
        );

        // The old primary comes back, and becomes a replica.
        let (report, ()) = under_load("the old primary comes back", &backend, async {
            block_in_place(|| {
                servers.servers[old].restart();
                servers.settle();
            });
        })
        .await;
        assert_eq!(
            (report.unanswered, report.double, report.forgotten),
            (0, 0, 0)
        );
        assert_eq!(
            report.failed.values().sum::<u64>() + report.unknown,
            0,
            "{report}"
        );

        // The primary stands still and wakes up when another server has its place.
        let old = servers.primary();
        let (report, ()) = under_load("SIGSTOP of the primary", &backend, async {
            servers.servers[old].pause();
            block_in_place(|| until("another server is the primary", || servers.primary() != old));
            recovery(&backend).await;
            servers.servers[old].resume();
            block_in_place(|| servers.settle());
        })
        .await;
        assert_eq!((report.unanswered, report.double), (0, 0));

        // Everything restarts, with the data lost. The sentinels and the servers keep their configurations.
        let (report, back) = under_load("all servers and sentinels restart", &backend, async {
            block_in_place(|| {
                let all = servers.servers.iter_mut().chain(&mut servers.sentinels);
                all.for_each(|server| server.kill9());
                let all = servers.servers.iter_mut().chain(&mut servers.sentinels);
                all.for_each(|server| server.restart());
            });
            let back = recovery(&backend).await;
            block_in_place(|| servers.settle());
            back
        })
        .await;
        println!("    all keys had answers {back:.2?} after the servers ran");
        assert_eq!((report.unanswered, report.double), (0, 0));
        assert!(back < Duration::from_secs(5), "{report}");
    });
}

#[test]
fn sentinel_url_has_credentials_of_both_kinds() {
    let servers = Sentinels::with(
        1,
        Settings {
            password: Some("secret"),
            sentinel_password: Some("hidden"),
        },
    );
    let _alone = alone();
    let policy = || Policy::new("api", Quota::per_hour(1).burst(10));
    runtime().block_on(async {
        let key = Key::from("ann");
        let spend = async |backend: AnyBackend| {
            let limiter = Limiter::new(policy(), backend);
            let reply = limiter.check(&key, 1).await?;
            Ok::<_, tower_sluice::backend::BackendError>(reply.decision.snapshot().remaining())
        };
        let backend = RedisBackend::connect(servers.url())
            .await
            .expect("the credentials are right");
        assert_eq!(spend(backend.into()).await.expect("a primary"), 9);
        let any = AnyBackend::from_url(&servers.url()).expect("a URL");
        assert_eq!(spend(any).await.expect("a primary"), 8);
        // The documented rights suffice on both.
        let least = servers.url().replace(":secret@", "limiter:least@");
        let least = least.replace(
            "sentinel_password=hidden",
            "sentinel_user=limiter&sentinel_password=least",
        );
        let backend = RedisBackend::connect(least)
            .await
            .expect("the rights suffice");
        assert_eq!(spend(backend.into()).await.expect("a primary"), 7);
        let sentinel = &servers.sentinels[0];
        until("the events are subscribed", || {
            let clients: String = sentinel.get(&["CLIENT", "LIST"]);
            clients
                .lines()
                .any(|client| client.contains("user=limiter") && client.contains("sub=3"))
        });
        for (right, wrong) in [
            ("secret", "wrong"),
            ("hidden", "wrong"),
            ("/main", "/other"),
        ] {
            let error = RedisBackend::connect(servers.url().replace(right, wrong))
                .await
                .unwrap_err();
            let shown = format!("{error:?}");
            assert!(shown.contains("Unreachable"), "{shown}");
            assert!(
                !shown.contains("secret") && !shown.contains("hidden"),
                "{shown}"
            );
        }
        // A replica as a standalone server is refused, with the form to use.
        let error = RedisBackend::connect(servers.servers[1].url())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("redis+sentinel://"), "{error}");
    });
    let blocking = tower_sluice::blocking::RedisBackend::connect(servers.url()).expect("a primary");
    let limiter = tower_sluice::blocking::Limiter::new(policy(), blocking);
    let reply = limiter.check(&Key::from("ann"), 1).expect("a primary");
    assert_eq!(reply.decision.snapshot().remaining(), 6);
}
