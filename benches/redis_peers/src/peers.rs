//! The limiters under test. Each makes one decision for a key of a number.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tower_rate_limiter::{RedisStore, Store};
use tower_sluice::{Key, Limiter, Policy, Quota, RedisBackend};

use crate::server::Server;
use crate::{Error, KEYS};

/// Makes one decision.
pub(crate) trait Decide: Clone + Send + 'static {
    /// Returns whether the request is allowed.
    fn decide(&mut self, key: usize) -> impl Future<Output = Result<bool, Error>> + Send;
}

const PER_HOUR: u64 = 100_000_000;

fn names() -> Arc<[String]> {
    (0..KEYS)
        .map(|number| format!("bench:{number:012}"))
        .collect()
}

/// The token bucket of this crate, with its defaults.
#[derive(Clone)]
pub(crate) struct Sluice {
    limiter: Limiter<RedisBackend>,
    keys: Arc<[Key]>,
}

impl Sluice {
    pub(crate) async fn connect(server: &Server) -> Result<Self, Error> {
        let builder = RedisBackend::builder().time_limit(Duration::from_secs(20));
        let backend = builder.connect(server.url()).await?;
        Ok(Self {
            limiter: Limiter::new(Policy::new("bench", Quota::per_hour(PER_HOUR)), backend),
            keys: (0..KEYS)
                .map(|number| Key::from(format!("{number:012}")))
                .collect(),
        })
    }
}

impl Decide for Sluice {
    async fn decide(&mut self, key: usize) -> Result<bool, Error> {
        let reply = self.limiter.check(&self.keys[key], 1).await?;
        Ok(reply.decision.is_allowed())
    }
}

/// `CL.THROTTLE` of redis-cell with the same quota, over one multiplexed connection.
#[derive(Clone)]
pub(crate) struct Cell {
    io: MultiplexedConnection,
    names: Arc<[String]>,
}

impl Cell {
    pub(crate) async fn connect(server: &Server) -> Result<Self, Error> {
        Ok(Self {
            io: server.connection().await?,
            names: names(),
        })
    }
}

impl Decide for Cell {
    async fn decide(&mut self, key: usize) -> Result<bool, Error> {
        let mut command = redis::cmd("CL.THROTTLE");
        command
            .arg(&self.names[key])
            .arg(PER_HOUR - 1)
            .arg(PER_HOUR)
            .arg(3_600);
        let [limited, ..]: [i64; 5] = command.query_async(&mut self.io).await?;
        Ok(limited == 0)
    }
}

/// The fixed window of tower-rate-limiter, over one multiplexed connection as in its documentation.
#[derive(Clone)]
pub(crate) struct FixedWindow {
    store: RedisStore,
    names: Arc<[String]>,
}

impl FixedWindow {
    pub(crate) async fn connect(server: &Server) -> Result<Self, Error> {
        Ok(Self {
            store: RedisStore::new(server.connection().await?),
            names: names(),
        })
    }
}

impl Decide for FixedWindow {
    async fn decide(&mut self, key: usize) -> Result<bool, Error> {
        let usage = self
            .store
            .increment(&self.names[key], Duration::from_secs(3_600))
            .await;
        Ok(usage.map_err(|why| why.to_string())?.used <= PER_HOUR)
    }
}

/// The least that a batching limiter does: a queue, one task, at most four EVALSHAs in flight over one connection. The
/// state is one integer, the theoretical arrival time in µs. There is no time limit, no circuit breaker, and no check of
/// a changed quota, of a clock that goes back, or of foreign values.
#[derive(Clone)]
pub(crate) struct Bare {
    queue: mpsc::UnboundedSender<(usize, oneshot::Sender<bool>)>,
}

/// ARGV: µs for one token | µs for all tokens.
const GCRA: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local cost, most = tonumber(ARGV[1]), tonumber(ARGV[2])
local answers = {}
for index = 1, #KEYS do
  local tat = math.max(now, tonumber(redis.call('GET', KEYS[index]) or 0)) + cost
  if tat - now > most then
    answers[index] = tat - now - most
  else
    local px = string.format('%.0f', math.ceil((tat - now) / 1000) + 1000)
    redis.call('SET', KEYS[index], string.format('%.0f', tat), 'PX', px)
    answers[index] = 0
  end
end
return answers";

impl Bare {
    pub(crate) async fn connect(server: &Server) -> Result<Self, Error> {
        let io = server.connection().await?;
        let script = Arc::new(redis::Script::new(GCRA));
        script.prepare_invoke().load_async(&mut io.clone()).await?;
        let (queue, waiting) = mpsc::unbounded_channel();
        tokio::spawn(send_batches(io, script, waiting));
        Ok(Self { queue })
    }
}

async fn send_batches(
    io: MultiplexedConnection,
    script: Arc<redis::Script>,
    mut waiting: mpsc::UnboundedReceiver<(usize, oneshot::Sender<bool>)>,
) {
    let names = names();
    let trips = Arc::new(Semaphore::new(4));
    let mut batch = Vec::new();
    loop {
        let Ok(trip) = Arc::clone(&trips).acquire_owned().await else {
            return;
        };
        if waiting.recv_many(&mut batch, 64).await == 0 {
            return;
        }
        let (mut io, batch) = (io.clone(), std::mem::take(&mut batch));
        let mut command = redis::cmd("EVALSHA");
        command.arg(script.get_hash()).arg(batch.len());
        for (key, _) in &batch {
            command.arg(&names[*key]);
        }
        command.arg(36).arg(3_600_000_000_u64);
        tokio::spawn(async move {
            // A failure drops the senders, which the tasks report.
            let waits: Vec<i64> = command.query_async(&mut io).await.unwrap_or_default();
            drop(trip);
            for ((_, answer), wait) in batch.into_iter().zip(waits) {
                let _ = answer.send(wait == 0);
            }
        });
    }
}

impl Decide for Bare {
    async fn decide(&mut self, key: usize) -> Result<bool, Error> {
        let (answer, answered) = oneshot::channel();
        self.queue.send((key, answer))?;
        Ok(answered.await?)
    }
}
