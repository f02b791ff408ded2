//! Corrupt keys in a batch beside healthy ones: each decision of a batch is independent.

use std::time::Duration;

use futures_util::future::join_all;
use rand::seq::IndexedRandom;
use rand::{Rng, RngCore};
use redis::Connection;
use tower_sluice::backend::{Answer, BackendErrorKind};
use tower_sluice::decision::Receipt;
use tower_sluice::semaphore::{PermitBackend, PermitId, PermitOp};
use tower_sluice::{Key, Limiter, Policy, RedisBackend, RedisSemaphore, SemaphorePolicy};

use crate::contents::{each_algorithm, stored};
use crate::harness::{Redis, check, guarded, uncached_builder};
use crate::support::redis::RedisServer;

const LIMIT: u64 = 1000;

#[derive(Clone, Copy, Debug)]
enum Kind {
    One,
    All,
    Peek,
    Penalty,
    Reserve,
    Refund,
}

const KINDS: [Kind; 6] = [
    Kind::One,
    Kind::All,
    Kind::Peek,
    Kind::Penalty,
    Kind::Reserve,
    Kind::Refund,
];

impl Kind {
    /// The remaining tokens of a full key after the operation. A refund follows a charge of 2.
    fn remains(self) -> u64 {
        match self {
            Self::One | Self::Penalty | Self::Reserve => LIMIT - 1,
            Self::All => 0,
            Self::Peek | Self::Refund => LIMIT,
        }
    }
}

/// Runs the operation, and returns the remaining tokens.
async fn act(
    limiter: &Redis,
    key: &Key,
    kind: Kind,
    receipt: Option<&mut Receipt>,
) -> Result<u64, BackendErrorKind> {
    let wait = Duration::from_secs(1);
    let of = |reply: tower_sluice::backend::Reply| reply.decision.snapshot().remaining();
    let outcome = match kind {
        Kind::One => limiter.check(key, 1).await.map(of),
        Kind::All => limiter.check(key, LIMIT).await.map(of),
        Kind::Reserve => limiter.reserve(key, 1, wait).await.map(of),
        Kind::Peek => limiter.peek(key).await.map(|snapshot| snapshot.remaining()),
        Kind::Penalty => limiter
            .penalize(key, 1)
            .await
            .map(|snapshot| snapshot.remaining()),
        Kind::Refund => {
            let receipt = receipt.expect("a charge to refund");
            let refund = limiter.refund(key, receipt, 2).await;
            refund.map(|snapshot| snapshot.remaining())
        }
    };
    outcome.map_err(|why| why.kind().clone())
}

async fn charge(limiter: &Redis, key: &Key, cost: u64) -> Receipt {
    let reply = limiter.check(key, cost).await.expect("an answer");
    reply.receipt.expect("allowed")
}

fn garbage(ours: &[u8]) -> Vec<u8> {
    let mut rng = rand::rng();
    let mut garbage = ours.to_vec();
    match rng.random_range(0..6) {
        0 => garbage.truncate(rng.random_range(0..garbage.len())),
        1 => garbage.push(b'x'),
        2 => garbage[..2].copy_from_slice(b"zz"),
        3 => rng.fill_bytes(&mut garbage[2..]),
        4 => {
            // One number becomes the smallest, the largest, minus one or zero.
            let at = 2 + 8 * rng.random_range(0..(garbage.len() - 2) / 8);
            let number = *[i64::MIN, i64::MAX, -1, 0].choose(&mut rng).expect("four");
            garbage[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        _ => {
            let at = rng.random_range(2..garbage.len());
            garbage[at] = rng.random();
        }
    }
    garbage
}

/// Corrupts one value of a key.
fn corrupt(server: &RedisServer, connection: &mut Connection, key: &str) {
    if server.get::<String>(&["TYPE", key]) == "list" {
        let entries: Vec<Vec<u8>> = server.get(&["LRANGE", key, "0", "-1"]);
        // A long log starts with its header and its chunks.
        let most = [entries.len(), 3][usize::from(rand::random::<bool>())];
        let at = rand::rng().random_range(0..most.min(entries.len()));
        let set = redis::cmd("LSET")
            .arg(key)
            .arg(at)
            .arg(garbage(&entries[at]))
            .exec(connection);
        set.expect("the server runs");
    } else {
        let ours: Vec<u8> = server.get(&["GET", key]);
        let set = redis::cmd("SET")
            .arg(key)
            .arg(garbage(&ours))
            .exec(connection);
        set.expect("the server runs");
    }
}

async fn assert_corrupt_keys_fail_alone(policy: Policy, rounds: usize, entries: usize) {
    let server = RedisServer::start();
    let backend = uncached_builder().time_limit(Duration::from_secs(20));
    let backend = backend
        .connect(server.url())
        .await
        .expect("the server runs");
    let client = redis::Client::open(server.url()).expect("a URL");
    let mut connection = client.get_connection().expect("the server runs");
    let limiter = Limiter::new(policy.clone(), backend);
    let bad = Key::from("bad");
    let charges = join_all((0..entries).map(|_| charge(&limiter, &bad, 2)));
    let mut receipts = charges.await;
    let keys = server.keys();
    let dumps: Vec<Vec<u8>> = keys.iter().map(|key| server.get(&["DUMP", key])).collect();
    let mut failed = 0;
    for round in 0..rounds {
        server.command(&["FLUSHALL"]);
        for (key, dump) in keys.iter().zip(&dumps) {
            let restore = redis::cmd("RESTORE")
                .arg(key)
                .arg(0)
                .arg(dump)
                .exec(&mut connection);
            restore.expect("the server runs");
        }
        let kind = KINDS[round % KINDS.len()];
        let key = keys.choose(&mut rand::rng()).expect("a key").clone();
        let good: Vec<Key> = (0..8)
            .map(|i| Key::from(format!("good{i}").as_str()))
            .collect();
        let mut charges: Vec<Option<Receipt>> = Vec::new();
        for good in &good {
            charges.push(match kind {
                Kind::Refund => Some(charge(&limiter, good, 2).await),
                _ => None,
            });
        }
        corrupt(&server, &mut connection, &key);
        let before: Vec<_> = keys.iter().map(|key| stored(&server, key).0).collect();
        let mut own = matches!(kind, Kind::Refund).then(|| {
            let at = rand::rng().random_range(0..receipts.len());
            receipts.swap_remove(at)
        });
        let mut jobs = Vec::new();
        let (front, back) = charges.split_at_mut(4);
        for (good, charge) in good[..4].iter().zip(front) {
            jobs.push((good, charge.as_mut()));
        }
        jobs.push((&bad, own.as_mut()));
        for (good, charge) in good[4..].iter().zip(back) {
            jobs.push((good, charge.as_mut()));
        }
        let jobs = jobs
            .into_iter()
            .map(|(key, receipt)| act(&limiter, key, kind, receipt));
        let mut outcomes = join_all(jobs).await;
        let own = outcomes.remove(4);
        let of = policy.name();
        for outcome in outcomes {
            assert_eq!(outcome, Ok(kind.remains()), "{kind:?} of {of} beside {key}");
        }
        match own {
            Ok(_) => {}
            Err(BackendErrorKind::Corrupt) => {
                failed += 1;
                let after: Vec<_> = keys.iter().map(|key| stored(&server, key).0).collect();
                assert!(after == before, "{kind:?} of {of} changed a corrupt key");
            }
            Err(why) => panic!("{kind:?} of {of}: {why:?}"),
        }
    }
    assert!(failed > rounds / 10, "{failed} of {rounds} were found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn corrupt_bucket_or_window_fails_only_its_request() {
    guarded(async {
        for policy in &each_algorithm(LIMIT)[..4] {
            assert_corrupt_keys_fail_alone(policy.clone(), 60, 100).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn corrupt_log_fails_only_its_request() {
    guarded(async {
        let [.., log] = each_algorithm(LIMIT);
        assert_corrupt_keys_fail_alone(log.clone(), 150, 40).await;
        // Enough entries that most are in chunks.
        assert_corrupt_keys_fail_alone(log, 300, 400).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn corrupt_key_of_several_quotas_fails_only_its_request() {
    guarded(async {
        let quotas = each_algorithm(LIMIT).map(|policy| policy.quotas()[0].clone());
        let quotas = quotas
            .each_ref()
            .map(|named| (named.name(), *named.quota()));
        let policy = Policy::try_from_quotas("all", quotas).expect("names");
        assert_corrupt_keys_fail_alone(policy, 150, 400).await;
    })
    .await;
}

/// The check has to search the log, and the charge before it in the batch stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_with_a_corrupt_middle_does_not_fail_its_batch() {
    guarded(async {
        let server = RedisServer::start();
        let backend = uncached_builder()
            .connect(server.url())
            .await
            .expect("the server runs");
        let [.., log] = each_algorithm(LIMIT);
        let limiter = Limiter::new(log, backend);
        let bad = Key::from("bad");
        for _ in 0..100 {
            let _ = charge(&limiter, &bad, 10).await;
        }
        let [key] = &server.keys()[..] else {
            panic!("one key for one limit");
        };
        for index in 1..99 {
            server.command(&["LSET", key, &index.to_string(), "hello"]);
        }
        let before = stored(&server, key).0;
        for round in 1..=10 {
            let good: Vec<Key> = (0..8_u64).map(Key::from).collect();
            let (front, own, back) = tokio::join!(
                join_all(good[..4].iter().map(|key| check(&limiter, key))),
                limiter.check(&bad, 500),
                join_all(good[4..].iter().map(|key| check(&limiter, key))),
            );
            assert_eq!([front, back].concat(), vec![Ok(round); 8]);
            let why = own.expect_err("the key is corrupt").kind().clone();
            assert_eq!(why, BackendErrorKind::Corrupt);
        }
        assert_eq!(stored(&server, key).0, before);
    })
    .await;
}

async fn ask(
    semaphore: &RedisSemaphore,
    permits: &SemaphorePolicy,
    key: &Key,
    op: PermitOp,
) -> Result<Vec<u64>, BackendErrorKind> {
    let reply = match semaphore.ask(op, permits, key) {
        Answer::Now(reply) => reply,
        Answer::Later(reply) => reply.await,
    };
    let reply = reply.map_err(|why| why.kind().clone())?;
    let mut reported = vec![reply.decision.snapshot().remaining()];
    reported.extend(reply.lasting().iter().map(|lasts| u64::from(*lasts)));
    Ok(reported)
}

/// Contents that no operation writes to the three keys of a semaphore: holders, weights, queue. `ID` is a holder.
const HOSTILE: [&str; 17] = [
    "SET p hello",
    "SET pw hello",
    "SET pq hello",
    "RPUSH p a b",
    "RPUSH pw a b",
    "RPUSH pq a b",
    "HSET pw sum hello",
    "HSET pw sum ''",
    "HSET pw sum 1e3",
    "HSET pw sum -1",
    "HSET pw sum nan",
    "HSET pw sum 99999999999999999999",
    "HSET pw ID hello",
    "HSET pw ID inf",
    "HSET pw ID -7",
    "HSET pq other hello",
    "HSET pq other aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn corrupt_permits_fail_only_their_key() {
    guarded(async {
        let server = RedisServer::start();
        let backend = RedisBackend::connect(server.url())
            .await
            .expect("the server runs");
        let semaphore = RedisSemaphore::new(&backend);
        let permits = SemaphorePolicy::new("exports", 10);
        let client = redis::Client::open(server.url()).expect("a URL");
        let mut connection = client.get_connection().expect("the server runs");
        let bad = Key::from("bad");
        let id = || PermitId::random();
        for hostile in HOSTILE {
            for step in 0..6 {
                server.command(&["FLUSHALL"]);
                let (one, two) = (id(), id());
                let acquire = |id, weight| PermitOp::Acquire { id, weight };
                let held = [acquire(one, 3), acquire(two, 4)];
                for op in held {
                    let reported = ask(&semaphore, &permits, &bad, op).await;
                    assert!(reported.is_ok(), "{reported:?}");
                }
                let wait = |id| PermitOp::Wait {
                    id,
                    weight: 9,
                    waited: Duration::ZERO,
                };
                let reported = ask(&semaphore, &permits, &bad, wait(id())).await;
                assert_eq!(reported, Ok(vec![3]));
                let mut command = redis::Cmd::new();
                let name = "{sluice:exports:rbad}:";
                let mut words = hostile.split(' ');
                let (verb, suffix) = (words.next().expect("a verb"), words.next().expect("a key"));
                let key = format!("{name}{suffix}");
                if !hostile.starts_with("HSET") {
                    server.command(&["DEL", &key]);
                }
                command.arg(verb).arg(&key);
                for word in words {
                    match word {
                        "ID" => command.arg(&one.as_bytes()[..]),
                        "''" => command.arg(""),
                        word => command.arg(word),
                    };
                }
                command.exec(&mut connection).expect("the server runs");
                let keys = server.keys();
                let dump = || keys.iter().map(|key| stored(&server, key).0);
                let before: Vec<_> = dump().collect();
                let op = |own: PermitId| match step {
                    0 => PermitOp::Peek,
                    1 => acquire(id(), 9),
                    2 => wait(own),
                    3 => PermitOp::Release(own),
                    4 => acquire(id(), 1),
                    _ => PermitOp::Renew(vec![own]),
                };
                let good: Vec<Key> = (0..8)
                    .map(|i| Key::from(format!("{step}-{i}").as_str()))
                    .collect();
                let alone = Key::from("alone");
                let expected = ask(&semaphore, &permits, &alone, op(id())).await;
                assert!(expected.is_ok());
                let jobs = good[..4].iter().chain([&bad]).chain(&good[4..]);
                let jobs = jobs.map(|key| {
                    let op = if *key == bad { op(one) } else { op(id()) };
                    ask(&semaphore, &permits, key, op)
                });
                let mut outcomes = join_all(jobs).await;
                match outcomes.remove(4) {
                    Ok(_) => {}
                    Err(BackendErrorKind::Corrupt) => {
                        let unchanged = dump().collect::<Vec<_>>() == before;
                        assert!(unchanged, "{hostile}: {step} changed a corrupt key");
                    }
                    Err(why) => panic!("{hostile}: {step}: {why:?}"),
                }
                for outcome in outcomes {
                    assert_eq!(outcome, expected, "{hostile}: {step}");
                }
            }
        }
    })
    .await;
}
