//! URLs, users and addresses of clusters.

use std::time::Duration;

use tower_sluice::backend::{BackendError, BackendErrorKind};
use tower_sluice::{
    AnyBackend, Key, Limiter, Policy, Quota, RedisBackend, Semaphore, SemaphorePolicy,
};

use crate::support::cluster::{ClusterOptions, RedisCluster};
use crate::support::redis::version;
use crate::{alone, runtime};

async fn spend<B>(backend: &B) -> Result<u64, BackendError>
where
    B: tower_sluice::backend::Backend<Error = BackendError>,
{
    let limiter = Limiter::new(
        Policy::new("api", Quota::per_hour(1).burst(10)),
        backend.clone(),
    );
    let mut left = 0;
    for key in 0..20_u64 {
        let reply = limiter.check(&Key::from(key), 1).await?;
        left += reply.decision.snapshot().remaining();
    }
    Ok(left / 20)
}

#[test]
fn cluster_url_works_for_every_kind_of_backend() {
    let cluster = RedisCluster::start(2, 0);
    let _alone = alone();
    runtime().block_on(async {
        let backend = RedisBackend::connect(cluster.url())
            .await
            .expect("a cluster");
        assert_eq!(spend(&backend).await.expect("nodes"), 9);
        // Nothing is left of the check at start.
        let keys: usize = cluster.nodes.iter().map(|node| node.keys().len()).sum();
        assert_eq!(keys, 20);
        let any = AnyBackend::from_url(&cluster.url()).expect("a URL");
        assert_eq!(spend(&any).await.expect("nodes"), 8);
        // One node is enough to find the others.
        let named = RedisBackend::cluster([cluster.nodes[1].url()])
            .await
            .expect("a cluster");
        assert_eq!(spend(&named).await.expect("nodes"), 7);
        let exports = Semaphore::new(SemaphorePolicy::new("exports", 1), named);
        for key in 0..10_u64 {
            let permit = exports
                .try_acquire(&Key::from(key), 1)
                .await
                .expect("a permit");
            assert!(exports.try_acquire(&Key::from(key), 1).await.is_err());
            drop(permit);
        }
    });
    let blocking = tower_sluice::blocking::RedisBackend::connect(cluster.url()).expect("a cluster");
    let policy = Policy::new("api", Quota::per_hour(1).burst(10));
    let limiter = tower_sluice::blocking::Limiter::new(policy, blocking);
    let reply = limiter.check(&Key::from(0_u64), 1).expect("a node");
    assert_eq!(reply.decision.snapshot().remaining(), 6);
}

#[test]
fn keys_of_one_decision_share_the_slot_of_the_outermost_key() {
    let _alone = alone();
    let cluster = RedisCluster::start(2, 0);
    runtime().block_on(async {
        let backend = RedisBackend::connect(cluster.url())
            .await
            .expect("a cluster");
        let limiter = |name, limit| {
            let policy = Policy::new(name, Quota::per_hour(limit));
            Limiter::new(policy, backend.clone())
        };
        let (users, orgs) = (limiter("user", 3), limiter("org", 4));
        for org in 0..20_u64 {
            let [ann, bob, org] = [Key::from("ann"), Key::from("bob"), Key::from(org)];
            let both = |user| {
                let scopes = [users.scope(user, 3), orgs.scope(&org, 3)];
                Limiter::all(scopes).expect("two scopes")
            };
            let error = both(&ann).check().await.unwrap_err();
            assert!(matches!(error.kind(), BackendErrorKind::Config(_)));
            assert!(error.to_string().contains("hash_by_outermost"), "{error}");
            let tagged = |user| both(user).hash_by_outermost();
            let reply = tagged(&ann).check().await.expect("a node");
            assert!(
                reply.decision.is_allowed(),
                "ann has a budget in each organization"
            );
            let denied = tagged(&bob);
            let reply = denied.check().await.expect("a node");
            let denied_by: Vec<_> = reply.decision.denied_by(denied.policy()).collect();
            assert_eq!(denied_by, ["org"]);
            let left = tagged(&bob).peek().await.expect("a node");
            assert_eq!(left.quotas()[0].remaining(), 3);
        }
    });
    let mut names: Vec<String> = cluster.nodes.iter().flat_map(|node| node.keys()).collect();
    names.sort_unstable();
    assert_eq!(names.len(), 40);
    assert_eq!(
        names[..2],
        ["{sluice:org:r0}:/user:rann:b", "{sluice:org:r0}:b"]
    );
}

#[test]
fn node_of_a_cluster_is_refused_as_a_standalone_server() {
    let cluster = RedisCluster::start(2, 1);
    let _alone = alone();
    runtime().block_on(async {
        for node in &cluster.nodes {
            let error = RedisBackend::connect(node.url()).await.unwrap_err();
            assert_eq!(*error.kind(), BackendErrorKind::Server("MOVED".to_owned()));
            assert!(error.to_string().contains("redis+cluster://"), "{error}");
        }
    });
}

#[test]
fn least_rights_of_a_cluster_suffice() {
    let cluster = ClusterOptions::new(2, 0)
        .line("user limiter on >secret ~{sluice:* +evalsha +eval +time +ping +get +mget +set +del +cluster|slots +cluster|info +asking")
        .user("limiter:secret@")
        .start();
    let _alone = alone();
    runtime().block_on(async {
        let backend = RedisBackend::connect(cluster.url())
            .await
            .expect("the rights suffice");
        assert_eq!(spend(&backend).await.expect("nodes"), 9);
        let slot = cluster.slot("{sluice:api:r3}");
        let from = cluster.owner(0, slot);
        let limiter = Limiter::new(Policy::new("api", Quota::per_hour(1).burst(10)), backend);
        let at = |_| {
            let key = Key::from(3_u64);
            let check = limiter.check(&key, 1);
            let _ =
                tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(check))
                    .expect("the redirect is followed");
        };
        cluster.move_slot(slot, from, 1 - from, at);
        assert!(cluster.calls("asking") > 0);
        let wrong = cluster.url().replace("secret", "wrong");
        let error = RedisBackend::connect(&wrong).await.unwrap_err();
        assert_eq!(*error.kind(), BackendErrorKind::Unreachable, "{error:?}");
        assert!(!format!("{error:?}").contains("wrong@"), "{error:?}");
    });
}

/// Redis 7.0 can announce names, or leave the host out.
#[test]
fn announced_names_and_missing_hosts_are_understood() {
    let _alone = alone();
    if version().1 < (7, 0) {
        println!("NOT TESTED: this server cannot announce names");
        return;
    }
    for (kind, lines) in [
        ("hostname", &["cluster-announce-hostname localhost"][..]),
        ("hostname", &[]),
        ("unknown-endpoint", &[]),
    ] {
        let options =
            ClusterOptions::new(2, 0).line(&format!("cluster-preferred-endpoint-type {kind}"));
        let cluster = lines
            .iter()
            .fold(options, |options, line| options.line(line))
            .start();
        runtime().block_on(async {
            let backend = RedisBackend::connect(cluster.url())
                .await
                .expect("a cluster");
            assert_eq!(spend(&backend).await.expect("nodes"), 9, "{kind} {lines:?}");
        });
    }
}

#[test]
fn cluster_that_is_down_at_start_is_used_once_it_is_up() {
    let mut cluster = RedisCluster::start(2, 0);
    let _alone = alone();
    cluster.nodes.iter_mut().for_each(|node| node.kill9());
    runtime().block_on(async {
        let backend = RedisBackend::connect_lazy(cluster.url()).expect("a URL");
        let error = spend(&backend).await.unwrap_err();
        assert_eq!(*error.kind(), BackendErrorKind::Unreachable, "{error:?}");
        let error = RedisBackend::connect(cluster.url()).await.unwrap_err();
        assert_eq!(*error.kind(), BackendErrorKind::Unreachable, "{error:?}");
        cluster.nodes.iter_mut().for_each(|node| node.restart());
        cluster.settle();
        let start = std::time::Instant::now();
        while spend(&backend).await.is_err() {
            assert!(start.elapsed() < Duration::from_secs(5));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
}

/// The certificate is for a name, and the nodes announce addresses.
#[cfg(feature = "tls")]
#[test]
fn tls_and_translated_addresses_reach_every_node() {
    use redis::TlsCertificates;
    use tower_sluice::backend::redis::adapter::RedisClient;

    use crate::support::tls::{self, Certificate};

    let _alone = alone();
    if !tls::is_built_in() {
        return;
    }
    let certificate = Certificate::new();
    let cluster = ClusterOptions::new(2, 0).tls(&certificate).start();
    let port: Vec<String> = cluster.nodes[0].get(&["CONFIG", "GET", "tls-port"]);
    let client = redis::Client::build_with_tls(
        format!("rediss://localhost:{}/", port[1]),
        TlsCertificates {
            client_tls: None,
            root_cert: Some(std::fs::read(certificate.authority()).expect("a file")),
        },
    );
    let client = RedisClient::new(client.expect("a certificate"));
    runtime().block_on(async {
        let backend = RedisBackend::builder()
            .time_limit(Duration::from_secs(5))
            .node_address(|_, port| ("localhost".to_owned(), port))
            .from_cluster_clients([client])
            .expect("a client");
        assert_eq!(spend(&backend).await.expect("nodes"), 9);
        assert!(
            cluster
                .primaries()
                .iter()
                .all(|node| node.calls("evalsha") > 0)
        );
        assert_eq!(cluster.errors("MOVED"), 0);
    });
}

#[test]
fn slot_that_no_node_serves_is_named_in_the_error() {
    let cluster = RedisCluster::start(2, 0);
    let _alone = alone();
    let slot = cluster.slot("{sluice:api:r0}");
    let owner = cluster.owner(0, slot);
    for node in &cluster.nodes {
        node.command(&["CLUSTER", "DELSLOTS", &slot.to_string()]);
    }
    runtime().block_on(async {
        let backend = RedisBackend::connect_lazy(cluster.url()).expect("a URL");
        let start = std::time::Instant::now();
        let error = spend(&backend).await.unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(2));
        assert_eq!(*error.kind(), BackendErrorKind::Unreachable);
        let source = std::error::Error::source(&error).expect("a source");
        assert_eq!(
            source.to_string(),
            format!("no node of the Redis Cluster serves slot {slot}")
        );
        cluster.nodes[owner].add_slots(slot..slot + 1);
        let start = std::time::Instant::now();
        while spend(&backend).await.is_err() {
            assert!(start.elapsed() < Duration::from_secs(5));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
}
