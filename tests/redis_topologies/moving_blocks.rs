//! Blocked keys in a slot that moves. Redis does not run a script while one of its keys is missing.

use std::time::Duration;

use tower_sluice::backend::BackendError;
use tower_sluice::decision::DenialReason;
use tower_sluice::{Decision, Key, Limiter, Policy, Quota, RedisBackend, RetryAfter};

use crate::support::cluster::RedisCluster;
use crate::support::redis::RedisServer;
use crate::{alone, runtime};

const HOUR: Duration = Duration::from_secs(3_600);

/// A slot on its way from one node to another.
struct MovingSlot<'a> {
    from: &'a RedisServer,
    to: &'a RedisServer,
    number: String,
}

impl<'a> MovingSlot<'a> {
    /// Tells both nodes. No key has moved.
    fn begin(cluster: &'a RedisCluster, name: &str) -> Self {
        let slot = cluster.slot(name);
        let owner = cluster.owner(0, slot);
        let (from, to) = (&cluster.nodes[owner], &cluster.nodes[1 - owner]);
        let number = slot.to_string();
        to.command(&["CLUSTER", "SETSLOT", &number, "IMPORTING", &id(from)]);
        from.command(&["CLUSTER", "SETSLOT", &number, "MIGRATING", &id(to)]);
        Self { from, to, number }
    }

    fn move_key(&self, key: &str) {
        let port = self.to.port().to_string();
        let reply: String = self
            .from
            .get(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]);
        assert_eq!(reply, "OK", "{key} is on the node");
    }

    fn end(self) {
        let left: Vec<String> = self
            .from
            .get(&["CLUSTER", "GETKEYSINSLOT", &self.number, "10"]);
        for key in left {
            self.move_key(&key);
        }
        for node in [self.to, self.from] {
            node.command(&["CLUSTER", "SETSLOT", &self.number, "NODE", &id(self.to)]);
        }
    }
}

fn id(node: &RedisServer) -> String {
    node.get(&["CLUSTER", "MYID"])
}

fn backend(cluster: &RedisCluster) -> RedisBackend {
    RedisBackend::builder()
        .deny_cache(Duration::ZERO)
        .connect_lazy(cluster.url())
        .expect("a URL")
}

fn is_denied_by_block(decision: &Decision) -> bool {
    let wait = decision.retry_after();
    decision.denial_reason() == Some(DenialReason::Blocked)
        && matches!(wait, Some(RetryAfter::In(wait)) if wait > HOUR / 2 && wait <= HOUR)
}

/// A limiter whose key has used a part of its quota.
struct Fixture {
    limiter: Limiter<RedisBackend>,
    key: Key,
    used: u64,
}

impl Fixture {
    async fn check(&mut self) {
        let reply = self.limiter.check(&self.key, 1).await.expect("a node");
        self.used += 1;
        assert!(reply.decision.is_allowed());
        assert_eq!(reply.decision.snapshot().remaining(), 100 - self.used);
    }

    /// Makes every kind of decision about a key without a block.
    async fn is_allowed(&mut self) {
        self.check().await;
        let peeked = self.limiter.peek(&self.key).await.expect("a node");
        assert_eq!(peeked.remaining(), 100 - self.used);
        let (tokens, charge) = self
            .limiter
            .try_acquire_up_to(&self.key, 2)
            .await
            .expect("a node");
        assert_eq!(tokens, 2);
        let _ = charge.cancel().await.expect("a node");
        let reserved = self
            .limiter
            .reserve(&self.key, 1, HOUR)
            .await
            .expect("a node");
        assert!(reserved.decision.is_allowed());
        self.used += 1;
        assert!(!self.limiter.is_blocked(&self.key).await.expect("a node"));
    }

    async fn is_denied(&self) -> Result<(), BackendError> {
        for cost in [0, 1] {
            let reply = self.limiter.check(&self.key, cost).await?;
            assert!(is_denied_by_block(&reply.decision), "{:?}", reply.decision);
        }
        let reserved = self.limiter.reserve(&self.key, 1, 9 * HOUR).await?;
        assert!(is_denied_by_block(&reserved.decision) && reserved.reservation.is_none());
        assert!(self.limiter.try_acquire_up_to(&self.key, 2).await.is_err());
        assert!(self.limiter.is_blocked(&self.key).await?);
        Ok(())
    }
}

#[test]
fn blocked_and_other_keys_are_decided_while_their_slot_moves() {
    let cluster = RedisCluster::start(2, 0);
    let _alone = alone();
    runtime().block_on(async {
        let backend = backend(&cluster);
        let quotas = [
            ("bucket", "b", Quota::token_bucket(100, 1, 24 * HOUR)),
            ("interval", "i", Quota::interval_bucket(100, 1, 24 * HOUR)),
            ("total", "t", Quota::total(100)),
        ];
        for (name, suffix, quota) in quotas {
            let fixture = |key: &str| Fixture {
                limiter: Limiter::new(Policy::new(name, quota), backend.clone()),
                key: Key::from(key),
                used: 0,
            };
            let names = |key: &str| {
                let tag = format!("{{sluice:{name}:r{key}}}");
                (format!("{tag}:{suffix}"), format!("{tag}:x"))
            };

            // A key without a block.
            let mut bob = fixture("bob");
            bob.check().await;
            let (state, _) = names("bob");
            let slot = MovingSlot::begin(&cluster, &state);
            bob.is_allowed().await;
            slot.move_key(&state);
            bob.is_allowed().await;
            slot.end();
            bob.is_allowed().await;

            // A new key, which is created on the node that the slot moves to.
            let mut new = fixture("new");
            let slot = MovingSlot::begin(&cluster, &names("new").0);
            new.is_allowed().await;
            slot.end();
            new.is_allowed().await;

            // Blocked keys, whose two keys move in either order.
            for first in ["state", "block"] {
                let mut ann = fixture(first);
                ann.check().await;
                ann.limiter.block(&ann.key, HOUR).await.expect("a node");
                let (state, block) = names(first);
                let slot = MovingSlot::begin(&cluster, &state);
                ann.is_denied()
                    .await
                    .expect("both keys are on the first node");
                slot.move_key(if first == "state" { &state } else { &block });
                ann.is_denied().await.expect("each key is on a node");
                // A block is ended and begun where it is.
                ann.limiter.unblock(&ann.key).await.expect("a node");
                ann.is_allowed().await;
                ann.limiter.block(&ann.key, HOUR).await.expect("a node");
                ann.is_denied().await.expect("each key is on a node");
                slot.end();
                ann.is_denied()
                    .await
                    .expect("both keys are on the second node");
                ann.limiter.unblock(&ann.key).await.expect("a node");
                ann.is_allowed().await;
            }
        }
        let refused = cluster.errors("TRYAGAIN");
        println!("{refused} TRYAGAIN");
        assert!(refused > 20, "the nodes had no keys to miss");
    });
}

#[test]
fn blocks_of_scopes_are_read_one_by_one_while_their_slot_moves() {
    let cluster = RedisCluster::start(2, 0);
    let _alone = alone();
    runtime().block_on(async {
        let backend = backend(&cluster);
        let limiter = |name| {
            let policy = Policy::new(name, Quota::token_bucket(100, 1, 24 * HOUR));
            Limiter::new(policy, backend.clone())
        };
        let (users, teams) = (limiter("user"), limiter("team"));
        let (ann, red) = (Key::from("ann"), Key::from("red"));
        let scopes = Limiter::all([users.scope(&ann, 1), teams.scope(&red, 1)]);
        let scopes = scopes.expect("two scopes").hash_by_outermost();
        assert!(scopes.check().await.expect("a node").decision.is_allowed());
        let slot = MovingSlot::begin(&cluster, "{sluice:team:rred}:b");
        // Both quotas are on the first node, and neither has a block.
        let reply = scopes.check().await.expect("a node");
        let left: Vec<_> = reply
            .decision
            .snapshot()
            .quotas()
            .iter()
            .map(|quota| quota.remaining())
            .collect();
        assert_eq!(left, [98, 98]);
        // The block is created on the second node.
        teams.block(&red, HOUR).await.expect("a node");
        let reply = scopes.check().await.expect("a node");
        assert!(is_denied_by_block(&reply.decision), "{:?}", reply.decision);
        let denied_by: Vec<_> = reply.decision.denied_by(scopes.policy()).collect();
        assert_eq!(denied_by, ["team"]);
        assert_eq!(reply.decision.snapshot().quotas()[0].remaining(), 98);
        slot.end();
        let reply = scopes.check().await.expect("a node");
        assert!(is_denied_by_block(&reply.decision));
        assert!(cluster.errors("TRYAGAIN") > 1);
    });
}
