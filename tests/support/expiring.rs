//! A Redis whose keys expire by a manual clock.
//!
//! Redis counts expiry by its own clock. This wrapper reads the expiry that each write has set, removes it from the
//! key, and deletes the key when the manual clock has passed it.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tower_sluice::backend::{Answer, Backend, BackendContext, BackendError, Op, Reply};
use tower_sluice::clock::{Clock, ManualClock};
use tower_sluice::{Cost, Key, Policy, RedisBackend};

/// Every key with its expiry in ms, which is removed; -1 without a write since.
const TAKE_EXPIRIES: &str = "
    local found = {}
    for _, key in ipairs(redis.call('KEYS', '*')) do
        found[#found + 1] = key
        found[#found + 1] = string.format('%.0f', redis.call('PTTL', key))
        redis.call('PERSIST', key)
    end
    return found";

/// A backend with its own server, whose keys expire by a manual clock. It checks the expiry of each write.
#[derive(Clone)]
pub(crate) struct Expiring {
    backend: RedisBackend,
    clock: ManualClock,
    /// Whether keys expire.
    forgets: bool,
    books: Arc<Mutex<KeyExpiries>>,
}

/// An operation, and its cost if it is a check or a reservation.
struct Asked {
    name: String,
    cost: Cost,
}

impl Asked {
    fn new(op: &Op) -> Self {
        let cost = match op {
            Op::Check(cost) | Op::Reserve { cost, .. } => cost.clone(),
            _ => Cost::new(0),
        };
        Self {
            name: format!("{op:?}"),
            cost,
        }
    }
}

struct KeyExpiries {
    connection: redis::Connection,
    /// The earliest and the latest expiry of each key, in µs of the manual clock. An operation takes some real time.
    ends: BTreeMap<String, (u64, u64)>,
}

impl Expiring {
    /// Deletes all keys of the server.
    pub(crate) fn new(
        url: &str,
        backend: RedisBackend,
        clock: &ManualClock,
        forgets: bool,
    ) -> Self {
        let client = redis::Client::open(url).expect("a URL");
        let mut connection = client.get_connection().expect("a server");
        let _: () = redis::cmd("FLUSHALL")
            .query(&mut connection)
            .expect("the server runs");
        Self {
            backend,
            clock: clock.clone(),
            forgets,
            books: Arc::new(Mutex::new(KeyExpiries {
                connection,
                ends: BTreeMap::new(),
            })),
        }
    }
}

impl KeyExpiries {
    /// Deletes expired keys.
    fn forget(&mut self, now: u64) {
        let Self { connection, ends } = self;
        ends.retain(|key, (_, latest)| {
            let lasts = now < *latest;
            if !lasts {
                let _: () = redis::cmd("DEL")
                    .arg(key)
                    .query(connection)
                    .expect("the server runs");
            }
            lasts
        });
    }

    /// Reads the expiries that an operation has set.
    fn note(&mut self, now: u64, began: Instant, op: &Asked, reply: &Reply) {
        let mut command = redis::cmd("EVAL");
        let found: Vec<String> = command
            .arg(TAKE_EXPIRIES)
            .arg(0)
            .query(&mut self.connection)
            .expect("the server runs");
        let took = u64::try_from(began.elapsed().as_micros()).expect("short");
        let mut ends = BTreeMap::new();
        for pair in found.chunks_exact(2) {
            let (key, left) = (pair[0].clone(), pair[1].parse::<i64>().expect("a number"));
            let before = self.ends.remove(&key);
            // The keys of several quotas are named by position.
            let place = key.rsplit(' ').next().unwrap_or_default();
            let place = place.parse::<usize>().unwrap_or(0);
            let (earliest, latest) = if let Ok(left) = u64::try_from(left) {
                // The server reports whole ms, rounded down.
                (now + left * 1_000, now + (left + 1) * 1_000 + took)
            } else {
                // A key that was written once has an expiry, which later writes may keep.
                let kept = before.expect("a write sets an expiry");
                if !reply.decision.is_allowed() || op.cost.get(place) == 0 {
                    ends.insert(key, kept);
                    continue;
                }
                kept
            };
            let answer = reply.decision.snapshot().quotas()[place];
            let needed =
                now.saturating_add(u64::try_from(answer.reset_after().as_micros()).expect("fits"));
            assert!(
                latest >= needed + 1_000_000,
                "{}: {key} is needed until {needed}, kept until {latest}",
                op.name
            );
            // The newest charge of a log may have been refunded.
            let is_log = key.contains("}:l");
            if let Some((before, _)) = before.filter(|_| !is_log) {
                // In whole ms from now, rounded up. Times end at 2^53 µs.
                let before = before.min(1 << 53);
                assert!(
                    latest + 1_000 >= before,
                    "{}: {key} is kept until {latest}, and was until {before}",
                    op.name
                );
            }
            ends.insert(key, (earliest, latest));
        }
        self.ends = ends;
    }
}

impl Backend for Expiring {
    type Error = BackendError;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, BackendError>> + Send>>;

    fn ask(
        &self,
        op: Op,
        policy: &Policy,
        key: &Key,
    ) -> Answer<Result<Reply, BackendError>, Self::Future> {
        let now = self.clock.now().as_micros();
        if self.forgets {
            self.books.lock().forget(now);
        }
        let (asked, began) = (Asked::new(&op), Instant::now());
        let Answer::Later(reply) = self.backend.ask(op, policy, key) else {
            panic!("without a deny cache each check is sent");
        };
        let books = Arc::clone(&self.books);
        Answer::Later(Box::pin(async move {
            let reply = reply.await?;
            books.lock().note(now, began, &asked, &reply);
            Ok(reply)
        }))
    }

    fn context(&self) -> &BackendContext {
        self.backend.context()
    }
}
