//! The backend over a client that is neither redis-rs nor bb8: everything it does goes through the transport traits.

mod support;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tower_sluice::backend::redis::transport::{
    Command, Connector, ServerError, Transport, TransportError, TransportErrorKind,
    TransportFuture, Value,
};
use tower_sluice::backend::redis::{Atomicity, RedisBuilder};
use tower_sluice::backend::{BackendErrorKind, RedisBackend, RedisSemaphore};
use tower_sluice::{Key, Limiter, Policy, Quota, Semaphore, SemaphorePolicy};

use crate::support::redis::RedisServer;

/// A connection that has one exchange at a time.
struct PlainConnection {
    /// `None` during an exchange. A dropped exchange leaves its reply on the connection, which is then unusable.
    stream: Mutex<Option<BufReader<TcpStream>>>,
}

/// Opens plain connections, and counts them.
#[derive(Clone)]
struct PlainClient {
    port: u16,
    opened: Arc<AtomicUsize>,
}

impl PlainClient {
    fn new(server: &RedisServer) -> Self {
        Self {
            port: server.port(),
            opened: Arc::default(),
        }
    }

    async fn open(&self) -> Result<PlainConnection, TransportError> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await;
        let stream = stream.map_err(|error| {
            let kind = match error.kind() {
                io::ErrorKind::ConnectionRefused => TransportErrorKind::Refused,
                _ => TransportErrorKind::Io,
            };
            TransportError::new(kind, error)
        })?;
        stream.set_nodelay(true).map_err(lost)?;
        self.opened.fetch_add(1, Relaxed);
        Ok(PlainConnection {
            stream: Mutex::new(Some(BufReader::new(stream))),
        })
    }
}

impl Connector for PlainClient {
    fn connect(&self) -> TransportFuture<'_, Arc<dyn Transport>> {
        Box::pin(async move {
            let connection: Arc<dyn Transport> = Arc::new(self.open().await?);
            Ok(connection)
        })
    }
}

impl PlainConnection {
    async fn exchange(&self, commands: &[Command]) -> Result<Vec<Value>, TransportError> {
        let mut slot = self.stream.lock().await;
        let closed = || lost(io::ErrorKind::NotConnected.into());
        let mut stream = slot.take().ok_or_else(closed)?;
        let mut packed = Vec::new();
        for command in commands {
            packed.extend(format!("*{}\r\n", command.args().len()).bytes());
            for arg in command.args() {
                packed.extend(format!("${}\r\n", arg.len()).bytes());
                packed.extend(arg);
                packed.extend(b"\r\n");
            }
        }
        stream.write_all(&packed).await.map_err(lost)?;
        let mut values = Vec::new();
        for _ in commands {
            values.push(Box::pin(read(&mut stream)).await?);
        }
        *slot = Some(stream);
        Ok(values)
    }
}

impl Transport for PlainConnection {
    fn send<'a>(&'a self, command: &'a Command) -> TransportFuture<'a, Value> {
        Box::pin(async move {
            let mut values = self.exchange(std::slice::from_ref(command)).await?;
            Ok(values.pop().unwrap_or_default())
        })
    }

    fn send_all<'a>(&'a self, commands: &'a [Command]) -> TransportFuture<'a, Vec<Value>> {
        Box::pin(self.exchange(commands))
    }
}

/// Keeps the default `send_all`, which sends one command after the other.
struct OneByOne(PlainConnection);

impl Transport for OneByOne {
    fn send<'a>(&'a self, command: &'a Command) -> TransportFuture<'a, Value> {
        // Errors of the server may be errors of the transport.
        Box::pin(async move {
            match self.0.send(command).await? {
                Value::Error(error) => Err(error.into()),
                value => Ok(value),
            }
        })
    }
}

struct OneByOneClient(PlainClient);

impl Connector for OneByOneClient {
    fn connect(&self) -> TransportFuture<'_, Arc<dyn Transport>> {
        Box::pin(async move {
            let connection: Arc<dyn Transport> = Arc::new(OneByOne(self.0.open().await?));
            Ok(connection)
        })
    }
}

fn lost(error: io::Error) -> TransportError {
    TransportError::new(TransportErrorKind::Io, error)
}

async fn read(stream: &mut BufReader<TcpStream>) -> Result<Value, TransportError> {
    let mut line = String::new();
    stream.read_line(&mut line).await.map_err(lost)?;
    let line = line.trim_end();
    if line.is_empty() {
        return Err(lost(io::ErrorKind::UnexpectedEof.into()));
    }
    let (kind, rest) = line.split_at(1);
    let number = || {
        rest.parse::<i64>()
            .map_err(|error| TransportError::new(TransportErrorKind::Protocol, error))
    };
    Ok(match kind {
        "+" => Value::Bytes(rest.as_bytes().to_vec()),
        "-" => Value::Error(ServerError::from_line(rest)),
        ":" => Value::Integer(number()?),
        "$" | "*" if number()? < 0 => Value::Nil,
        "$" => {
            let mut bytes = vec![0; usize::try_from(number()?).expect("a length") + 2];
            stream.read_exact(&mut bytes).await.map_err(lost)?;
            bytes.truncate(bytes.len() - 2);
            Value::Bytes(bytes)
        }
        "*" => {
            let mut values = Vec::new();
            for _ in 0..number()? {
                values.push(Box::pin(read(stream)).await?);
            }
            Value::Array(values)
        }
        other => panic!("a reply of the kind {other}"),
    })
}

fn builder() -> RedisBuilder {
    RedisBackend::builder()
        .deny_cache(Duration::ZERO)
        .time_limit(Duration::from_secs(10))
}

fn a_day(limit: u64) -> Policy {
    Policy::new("api", Quota::per_day(limit))
}

/// The number of allowed checks of `count` at the same time.
async fn allowed(backend: &RedisBackend, limit: u64, count: usize) -> usize {
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        let limiter = Limiter::new(a_day(limit), backend.clone());
        tasks.spawn(async move { limiter.check(&Key::from("ann"), 1).await });
    }
    let outcomes = tasks.join_all().await;
    let allowed = outcomes.into_iter().filter(|outcome| {
        let reply = outcome.as_ref().expect("Redis");
        reply.decision.is_allowed()
    });
    allowed.count()
}

#[tokio::test]
async fn batches_over_another_client_allow_exactly_the_limit() {
    let server = RedisServer::start();
    let client = PlainClient::new(&server);
    let backend = builder().from_connector(client.clone());
    assert_eq!(allowed(&backend, 100, 400).await, 100);
    assert!(server.calls("EVALSHA") < 200, "they go in batches");
    assert!((1..=4).contains(&client.opened.load(Relaxed)));
}

#[tokio::test]
async fn lost_scripts_are_sent_again_over_another_client() {
    let server = RedisServer::start();
    let backend = builder().from_connector(PlainClient::new(&server));
    assert_eq!(allowed(&backend, 10, 1).await, 1);
    server.command(&["SCRIPT", "FLUSH"]);
    assert_eq!(allowed(&backend, 10, 1).await, 1);
    assert_eq!(allowed(&backend, 10, 20).await, 8);
}

#[tokio::test]
async fn optimistic_mode_works_over_another_client() {
    let server = RedisServer::start();
    let optimistic = || builder().atomicity(Atomicity::Optimistic);
    let client = PlainClient::new(&server);
    for backend in [
        optimistic().from_connector(client.clone()),
        optimistic().from_connector(OneByOneClient(client)),
    ] {
        let limiter = Limiter::new(a_day(10), backend);
        let ann = Key::from("ann");
        let mut reply = limiter.check(&ann, 4).await.expect("Redis");
        let receipt = reply.receipt.as_mut().expect("a charge");
        limiter.refund(&ann, receipt, 1).await.expect("Redis");
        assert_eq!(limiter.peek(&ann).await.expect("Redis").remaining(), 7);
        assert!(
            !limiter
                .check(&ann, 8)
                .await
                .expect("Redis")
                .decision
                .is_allowed()
        );
        limiter.reset(&ann).await.expect("Redis");
        assert!(server.keys().is_empty());
    }
}

#[tokio::test]
async fn shared_transport_serves_limits_and_permits() {
    let server = RedisServer::start();
    let connection = PlainClient::new(&server).open().await.expect("a server");
    let backend = builder().from_transport(connection);
    assert_eq!(allowed(&backend, 50, 100).await, 50);
    let permits = SemaphorePolicy::new("exports", 1);
    let semaphore = Semaphore::new(permits, RedisSemaphore::new(&backend));
    let key = Key::from("ann");
    let permit = semaphore.try_acquire(&key, 1).await.expect("a permit");
    assert!(semaphore.try_acquire(&key, 1).await.is_err());
    drop(permit);
}

#[tokio::test]
async fn connector_is_asked_again_after_a_restart() {
    let mut server = RedisServer::start();
    let backend = builder().from_connector(PlainClient::new(&server));
    assert_eq!(allowed(&backend, 10, 1).await, 1);
    server.kill9();
    let limiter = Limiter::new(a_day(10), backend);
    let error = limiter.check(&Key::from("ann"), 1).await.unwrap_err();
    let down = [BackendErrorKind::Lost, BackendErrorKind::Unreachable];
    assert!(down.contains(error.kind()), "{error:?}");
    server.restart();
    let start = Instant::now();
    while limiter.check(&Key::from("ann"), 1).await.is_err() {
        assert!(start.elapsed() < Duration::from_secs(10), "no answer");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn server_error_keeps_its_code_over_another_client() {
    let server = RedisServer::start();
    let backend = builder().from_connector(PlainClient::new(&server));
    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let limiter = Limiter::new(a_day(10), backend);
    let error = limiter.check(&Key::from("ann"), 1).await.unwrap_err();
    assert_eq!(*error.kind(), BackendErrorKind::Server("OOM".to_owned()));
}
