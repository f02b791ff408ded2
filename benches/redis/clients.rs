//! Other clients that run the same script: redis-rs alone, a pool, and redis-benchmark.

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::redis::RedisServer;
use crate::{Decide, Error, KEYS, key, plenty};
use bb8_redis::RedisConnectionManager;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Cmd, Pipeline, RedisFuture, Value};
use tower_sluice::backend::redis::adapter::RedisConnection;
use tower_sluice::{Key, Limiter, RedisBackend};

/// The command of our backend for one decision.
pub(crate) struct Script {
    pub(crate) text: String,
    /// From the number of keys on. The key is that of number 0.
    pub(crate) args: Vec<Vec<u8>>,
}

/// Records the sent commands.
#[derive(Clone)]
struct Spy {
    io: MultiplexedConnection,
    sent: Arc<Mutex<Vec<Cmd>>>,
}

impl ConnectionLike for Spy {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        self.sent.lock().expect("no panic").push(command.clone());
        self.io.req_packed_command(command)
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.io.req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.io.get_db()
    }
}

async fn connection(server: &RedisServer) -> Result<MultiplexedConnection, Error> {
    let client = redis::Client::open(server.url())?;
    Ok(client.get_multiplexed_async_connection().await?)
}

impl Script {
    /// A server without the script gets its text.
    pub(crate) async fn spied(server: &RedisServer) -> Result<Self, Error> {
        let (io, sent) = (connection(server).await?, Arc::default());
        let spy = Spy {
            io,
            sent: Arc::clone(&sent),
        };
        let limiter = Limiter::new(
            plenty(),
            RedisBackend::from_transport(RedisConnection::new(spy)),
        );
        let _ = limiter.check(&Key::from(key(0)), 1).await?;
        let sent = sent.lock().expect("no panic");
        let words = sent.iter().map(|command| {
            let words = command.args_iter().map(|word| match word {
                redis::Arg::Simple(word) => word.to_vec(),
                _ => Vec::new(),
            });
            words.collect::<Vec<_>>()
        });
        let mut eval = words.filter(|words| words[0] == b"EVAL");
        let eval = eval.next().ok_or("no EVAL was sent")?;
        Ok(Self {
            text: String::from_utf8(eval[1].clone())?,
            args: eval[2..].to_vec(),
        })
    }

    pub(crate) fn hash(&self) -> String {
        redis::Script::new(&self.text).get_hash().to_owned()
    }

    /// The EVALSHA of a decision on `number`, except for `key`, which is that of number 0 with its digits replaced.
    pub(crate) fn command(&self, hash: &str, number: u32) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command
            .arg(hash)
            .arg(&self.args[0])
            .arg(self.key(&key(number)));
        for arg in &self.args[2..] {
            command.arg(arg);
        }
        command
    }

    pub(crate) fn key(&self, identity: &str) -> String {
        String::from_utf8_lossy(&self.args[1]).replace(&key(0), identity)
    }
}

/// The answer of a token bucket is its debt, negative if the request is denied.
fn is_allowed(answer: &Value) -> bool {
    matches!(answer, Value::Array(debts) if matches!(debts.first(), Some(Value::Int(debt)) if *debt >= 0))
}

/// Sends the script, and nothing else.
#[derive(Clone)]
pub(crate) struct Plain {
    pub(crate) io: MultiplexedConnection,
    pub(crate) script: Arc<(Script, String)>,
}

impl Plain {
    pub(crate) async fn connect(server: &RedisServer, script: &Script) -> Result<Self, Error> {
        Ok(Self {
            io: connection(server).await?,
            script: script.shared(),
        })
    }
}

impl Decide for Plain {
    async fn decide(&mut self, key: u32) -> Result<bool, Error> {
        let command = self.script.0.command(&self.script.1, key);
        Ok(is_allowed(&command.query_async(&mut self.io).await?))
    }
}

#[derive(Clone)]
pub(crate) struct Pooled {
    pub(crate) pool: bb8::Pool<RedisConnectionManager>,
    pub(crate) script: Arc<(Script, String)>,
}

impl Pooled {
    pub(crate) async fn connect(server: &RedisServer, script: &Script) -> Result<Self, Error> {
        let manager = RedisConnectionManager::new(server.url())?;
        Ok(Self {
            pool: bb8::Pool::builder().build(manager).await?,
            script: script.shared(),
        })
    }
}

impl Decide for Pooled {
    async fn decide(&mut self, key: u32) -> Result<bool, Error> {
        let command = self.script.0.command(&self.script.1, key);
        let mut io = self.pool.get().await?;
        Ok(is_allowed(&command.query_async(&mut *io).await?))
    }
}

impl Script {
    pub(crate) fn shared(&self) -> Arc<(Self, String)> {
        let script = Self {
            text: self.text.clone(),
            args: self.args.clone(),
        };
        Arc::new((script, self.hash()))
    }
}

/// `redis-benchmark` with the script.
pub(crate) struct RedisBenchmark {
    pub(crate) args: Vec<String>,
}

impl RedisBenchmark {
    /// It cannot send every byte. Such bytes are written into the script, and text of equal length is sent instead.
    pub(crate) fn new(server: &RedisServer, script: &Script) -> Self {
        let (mut text, mut args) = (String::new(), Vec::new());
        for (index, arg) in script.args[2..].iter().enumerate() {
            if arg.iter().all(u8::is_ascii_graphic) {
                args.push(String::from_utf8_lossy(arg).into_owned());
            } else {
                let bytes: String = arg.iter().map(|byte| format!("\\{byte:03}")).collect();
                text.push_str(&format!("ARGV[{}] = '{bytes}'\n", index + 1));
                args.push("x".repeat(arg.len()));
            }
        }
        text.push_str(&script.text);
        let hash: String = server.get(&["SCRIPT", "LOAD", &text]);
        let key = script.key("__rand_int__");
        args.splice(..0, ["EVALSHA".to_owned(), hash, "1".to_owned(), key]);
        let options = ["-p", &server.port().to_string(), "-r", &KEYS.to_string()];
        args.splice(..0, options.map(str::to_owned));
        args.splice(..0, ["-P", "16", "-c", "50", "--csv"].map(str::to_owned));
        Self { args }
    }

    /// Decisions/s; p50, p99 and the longest in µs; and the number of decisions, in a run of about this time.
    pub(crate) fn run(&self, time: Duration) -> Result<(f64, [f64; 3], f64), Error> {
        let (rate, _) = self.count(20_000.0)?;
        let count = (rate * time.as_secs_f64()).max(1_000.0).round();
        let (rate, spans) = self.count(count)?;
        Ok((rate, spans, count))
    }

    pub(crate) fn count(&self, count: f64) -> Result<(f64, [f64; 3]), Error> {
        let output = Command::new("redis-benchmark")
            .args(["-n", &count.to_string()])
            .args(&self.args)
            .output()
            .map_err(|why| format!("redis-benchmark: {why}"))?;
        // Its name, requests/s; then average, least, p50, p95, p99 and longest in ms.
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().last().ok_or("redis-benchmark said nothing")?;
        let fields: Vec<_> = line.trim_matches('"').rsplit("\",\"").collect();
        let number = |at: usize| -> Result<f64, Error> {
            Ok(fields.get(at).ok_or("too few numbers")?.parse()?)
        };
        let micros = |at| Ok::<_, Error>(number(at)? * 1e3);
        Ok((number(6)?, [micros(3)?, micros(1)?, micros(0)?]))
    }
}
