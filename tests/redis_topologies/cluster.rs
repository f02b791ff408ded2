//! A cluster of three primaries and three replicas whose nodes fail, change roles and hand over slots.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use tokio::task::{block_in_place, spawn_blocking};
use tokio::time::sleep;
use tower_sluice::{Limiter, Policy, Quota, RedisBackend};

use crate::load::{self, KEYS, recovery, under_load};
use crate::support::cluster::{ClusterOptions, RedisCluster, until};
use crate::support::proxy::{Mode, Proxy};
use crate::{alone, runtime};

/// A backend without a deny cache: Redis decides each check.
fn backend(cluster: &RedisCluster) -> RedisBackend {
    RedisBackend::builder()
        .deny_cache(Duration::ZERO)
        .connect_lazy(cluster.url())
        .expect("a URL")
}

#[test]
fn failures_of_nodes_cost_only_their_slots() {
    let mut cluster = RedisCluster::start(3, 1);
    let _alone = alone();
    runtime().block_on(async {
        let backend = backend(&cluster);

        // One primary dies, and its replica takes over.
        let (report, back) = under_load("kill -9 of a primary", &backend, async {
            cluster.nodes[0].kill9();
            let start = Instant::now();
            block_in_place(|| {
                until("the replica has taken over", || {
                    let info: String = cluster.nodes[3].get(&["INFO", "replication"]);
                    info.contains("role:master")
                });
            });
            let took_over = start.elapsed();
            recovery(&backend).await;
            (took_over, start.elapsed())
        })
        .await;
        println!(
            "    the replica took over after {:.2?}, and all keys had answers after {:.2?}",
            back.0, back.1
        );
        assert_eq!((report.unanswered, report.double), (0, 0));
        let lost = report.silent_keys;
        assert!(
            (KEYS / 6..KEYS / 2).contains(&lost),
            "{lost} keys lost their answers"
        );
        assert!(back.1 - back.0 < Duration::from_secs(5));

        // The old primary comes back as a replica.
        let (report, ()) = under_load("the old primary comes back", &backend, async {
            block_in_place(|| {
                cluster.nodes[0].restart();
                cluster.settle();
            });
        })
        .await;
        assert_eq!(
            (report.unanswered, report.double, report.forgotten),
            (0, 0, 0)
        );
        assert_eq!(report.silent_keys, 0);
        assert_eq!(
            report.failed.values().sum::<u64>() + report.unknown,
            0,
            "{report}"
        );

        // A planned failover, in both ways.
        for (how, node) in [("CLUSTER FAILOVER", 0), ("CLUSTER FAILOVER FORCE", 4)] {
            let (report, ()) = under_load(how, &backend, async {
                let words: Vec<&str> = how.split(' ').collect();
                block_in_place(|| {
                    cluster.nodes[node].command(&words);
                    until("the replica has taken over", || {
                        let info: String = cluster.nodes[node].get(&["INFO", "replication"]);
                        info.contains("role:master")
                    });
                    cluster.settle();
                });
                recovery(&backend).await;
            })
            .await;
            assert_eq!((report.unanswered, report.double), (0, 0));
            assert!(report.silence < Duration::from_secs(2), "{report}");
        }

        // A primary stands still for longer than the others wait for it, and wakes up.
        let stopped = cluster.owner(0, cluster.slot(&load::name(0)));
        let (report, ()) = under_load("SIGSTOP of a primary", &backend, async {
            cluster.nodes[stopped].pause();
            block_in_place(|| {
                until("a replica has taken over", || {
                    let others = cluster.nodes.iter().enumerate();
                    let others = others.filter(|(index, _)| *index != stopped);
                    let primaries = others.filter(|(_, node)| {
                        let info: String = node.get(&["INFO", "replication"]);
                        info.contains("role:master")
                    });
                    primaries.count() == 3
                });
            });
            sleep(Duration::from_millis(500)).await;
            cluster.nodes[stopped].resume();
            block_in_place(|| cluster.settle());
            recovery(&backend).await;
        })
        .await;
        assert_eq!((report.unanswered, report.double), (0, 0));
        assert!(report.silent_keys < KEYS / 2, "{report}");

        // All nodes restart, with their data lost.
        let (report, ()) = under_load("all nodes restart", &backend, async {
            block_in_place(|| {
                cluster.nodes.iter_mut().for_each(|node| node.kill9());
                cluster.nodes.iter_mut().for_each(|node| node.restart());
                cluster.settle();
            });
            let back = recovery(&backend).await;
            assert!(back < Duration::from_secs(5), "{back:?}");
        })
        .await;
        assert_eq!((report.unanswered, report.double), (0, 0));
    });
}

/// Clients reach a primary that has lost the others. It serves its slots until it knows. Its replica takes over, and
/// the charges of the time between are forgotten.
#[test]
fn partition_of_a_primary_costs_its_slots_until_its_replica_takes_over() {
    let cluster = ClusterOptions::new(3, 1).proxies().start();
    let _alone = alone();
    runtime().block_on(async {
        let backend = backend(&cluster);
        let (report, (took_over, back, refused)) =
            under_load("partition of a primary", &backend, async {
                let start = Instant::now();
                cluster.isolate(0);
                block_in_place(|| {
                    until("the replica has taken over", || {
                        let info: String = cluster.nodes[3].get(&["INFO", "replication"]);
                        info.contains("role:master")
                    });
                });
                let took_over = start.elapsed();
                recovery(&backend).await;
                let back = start.elapsed();
                // The isolated node still believes that it has its slots.
                let own: String = cluster.nodes[0].get(&["CLUSTER", "INFO"]);
                assert!(own.contains("cluster_state:fail"), "{own}");
                assert_eq!(cluster.owner(0, 0), 0, "nothing has told it");
                assert_eq!(cluster.owner(1, 0), 3);
                let refused = cluster.nodes[0].get::<String>(&["INFO", "errorstats"]);
                cluster.heal(0);
                block_in_place(|| cluster.settle());
                (took_over, back, refused.contains("CLUSTERDOWN"))
            })
            .await;
        println!(
            "    the replica took over after {took_over:.2?}, and all keys had answers after {back:.2?}"
        );
        assert!(refused, "the backend asked the isolated node");
        assert_eq!((report.unanswered, report.double), (0, 0));
        assert!(back - took_over < Duration::from_secs(5), "{report}");
        // The isolated node has served a third of the keys for less than two node time-outs.
        let share = report.forgotten as f64 / (report.rate() / 3.0);
        println!("    over-admission: {share:.2} s of the traffic of its slots");
        assert!(share < took_over.as_secs_f64() + 0.5, "{report}");
        let lost = report.silent_keys;
        assert!(lost < KEYS / 2, "{lost} keys lost their answers");
    });
}

#[test]
fn hot_slots_move_without_a_failure() {
    let cluster = RedisCluster::start(2, 0);
    let _alone = alone();
    runtime().block_on(async {
        let backend = backend(&cluster);
        let slots: Vec<usize> = (0..20)
            .map(|index| cluster.slot(&load::name(index)))
            .collect();
        let (report, ()) = under_load("20 hot slots move and return", &backend, async {
            block_in_place(|| {
                for _ in 0..2 {
                    for slot in &slots {
                        let from = cluster.owner(0, *slot);
                        // The pauses let requests meet each state of the slot.
                        let pause = |_| thread::sleep(Duration::from_millis(50));
                        cluster.move_slot(*slot, from, 1 - from, pause);
                    }
                }
            });
        })
        .await;
        let (moved, ask) = (cluster.errors("MOVED"), cluster.errors("ASK"));
        println!(
            "    {ask} ASK, {moved} MOVED, {} ASKING",
            cluster.calls("asking")
        );
        assert!(ask > 10 && moved > 5, "{ask} ASK, {moved} MOVED");
        assert_eq!(cluster.calls("asking"), ask);
        assert_eq!(
            (report.unanswered, report.double, report.forgotten),
            (0, 0, 0)
        );
        assert_eq!(
            report.failed.values().sum::<u64>() + report.unknown,
            0,
            "{report}"
        );
    });
}

/// The limits of one decision are several keys of one slot. While one of them has moved, no node can decide.
#[test]
fn limits_of_one_decision_are_asked_again_until_they_are_together() {
    let cluster = RedisCluster::start(2, 0);
    let _alone = alone();
    runtime().block_on(async {
        let backend = backend(&cluster);
        let policy = Policy::new(
            "two",
            Quota::fixed_window(100, Duration::from_secs(8_640_000)),
        )
        .and(
            "daily",
            Quota::fixed_window(1_000, Duration::from_secs(8_640_000)),
        );
        let limiter = Limiter::new(policy, backend.clone());
        let key = load::key(7);
        let _ = limiter.check(&key, 1).await.expect("a node");
        let slot = cluster.slot("{sluice:two:r7}");
        let from = cluster.owner(0, slot);
        let (source, target) = (&cluster.nodes[from], &cluster.nodes[1 - from]);
        let id =
            |node: &crate::support::redis::RedisServer| node.get::<String>(&["CLUSTER", "MYID"]);
        let (from_id, to_id, number) = (id(source), id(target), slot.to_string());
        target.command(&["CLUSTER", "SETSLOT", &number, "IMPORTING", &from_id]);
        source.command(&["CLUSTER", "SETSLOT", &number, "MIGRATING", &to_id]);
        let keys: Vec<String> = source.get(&["CLUSTER", "GETKEYSINSLOT", &number, "10"]);
        assert_eq!(keys.len(), 2, "{keys:?}");
        let port = target.port().to_string();
        let go = |key: &str| source.command(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]);
        go(&keys[0]);
        let asked = limiter.clone();
        let waits = tokio::spawn(async move { asked.check(&load::key(7), 1).await });
        sleep(Duration::from_millis(60)).await;
        go(&keys[1]);
        let reply = waits
            .await
            .expect("no panic")
            .expect("both keys are together again");
        assert_eq!(reply.decision.snapshot().quotas()[0].remaining(), 98);
        assert!(cluster.errors("TRYAGAIN") > 0);
        println!("{} TRYAGAIN in 60 ms", cluster.errors("TRYAGAIN"));
        for node in [target, source] {
            node.command(&["CLUSTER", "SETSLOT", &number, "NODE", &to_id]);
        }
        let reply = limiter.check(&key, 1).await.expect("a node");
        assert_eq!(reply.decision.snapshot().quotas()[0].remaining(), 97);
    });
}

#[test]
fn connections_cut_after_the_write_charge_once() {
    const CUTS: usize = 100;
    let cluster = RedisCluster::start(3, 0);
    let _alone = alone();
    runtime().block_on(async {
        let (mut proxies, mut ports) = (Vec::new(), HashMap::new());
        for node in &cluster.nodes {
            let proxy = Proxy::to(node.port()).await;
            let url = proxy.url();
            let port = url
                .trim_end_matches('/')
                .rsplit(':')
                .next()
                .expect("a port");
            ports.insert(node.port(), port.parse::<u16>().expect("a port"));
            proxies.push(proxy);
        }
        let backend = RedisBackend::builder()
            .deny_cache(Duration::ZERO)
            .node_address(move |host, port| (host.to_owned(), ports[&port]))
            .cluster_lazy([proxies[0].url()])
            .expect("a URL");
        let (report, ()) = under_load("100 connections cut after the write", &backend, async {
            for cut in 0..CUTS {
                let proxy = &proxies[cut % proxies.len()];
                proxy.set(Mode::CutAfterRequest(1 + cut % 7)).await;
                while proxy.mode() != Mode::Pass {
                    sleep(Duration::from_millis(1)).await;
                }
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        assert!(
            report.unknown >= CUTS as u64,
            "each loss is reported: {report}"
        );
        assert_eq!(
            (report.unanswered, report.double, report.forgotten),
            (0, 0, 0)
        );
    });
}

#[test]
fn stopped_node_without_a_replica_delays_no_other_key() {
    let cluster = RedisCluster::start(3, 0);
    let _alone = alone();
    runtime().block_on(async {
        let backend = backend(&cluster);
        let (report, ()) = under_load(
            "a primary without a replica stands still",
            &backend,
            async {
                cluster.nodes[1].pause();
                sleep(Duration::from_millis(2_500)).await;
                cluster.nodes[1].resume();
                let back = spawn_blocking({
                    let backend = backend.clone();
                    move || tokio::runtime::Handle::current().block_on(recovery(&backend))
                });
                let back = back.await.expect("no panic");
                println!("    all keys had answers {back:.2?} after the node was back");
                assert!(back < Duration::from_secs(5));
            },
        )
        .await;
        assert_eq!(
            (report.unanswered, report.double, report.forgotten),
            (0, 0, 0)
        );
        let lost = report.silent_keys;
        assert!(
            (KEYS / 6..KEYS / 2).contains(&lost),
            "{lost} keys lost their answers"
        );
    });
}
