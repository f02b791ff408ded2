//! Servers on real sockets, and clients that write bytes.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::routing::{get, post};
use tower_sluice::clock::{ManualClock, Timestamp};
use tower_sluice::{Global, MemoryBackend, Policy, Quota, RateLimitLayer};

/// The longest time that a test waits for anything. A test that hangs fails.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) const UPLOAD: usize = 4 << 20;

pub(crate) fn clock() -> ManualClock {
    ManualClock::at(Timestamp::from_micros(1_800_000_000_000_000))
}

pub(crate) type Memory = MemoryBackend<ManualClock>;

/// Denies every request.
pub(crate) fn denies() -> RateLimitLayer<Global, Memory, tower_sluice::Cost> {
    let memory = MemoryBackend::builder().clock(clock()).build();
    let policy = Policy::new("uploads", Quota::per_minute(1));
    RateLimitLayer::new(policy, Global, memory).cost(2)
}

/// An app whose uploads are denied, and whose `/` is not.
pub(crate) fn app() -> Router {
    let upload = post(async |body: Bytes| body.len().to_string());
    Router::new()
        .route("/upload", upload.layer(denies()))
        .route("/", get(async || "hello"))
}

pub(crate) async fn serve(app: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(axum::serve(listener, app).into_future());
    address
}

/// A blocking client, the common kind: it writes everything before it reads.
pub(crate) struct Wire {
    stream: TcpStream,
    /// Bytes that were read and not yet parsed.
    read: Vec<u8>,
}

impl Wire {
    pub(crate) fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(TIMEOUT)).expect("set");
        stream.set_write_timeout(Some(TIMEOUT)).expect("set");
        Self {
            stream,
            read: Vec::new(),
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The status of the next response, which is read to its end; `None` if the connection ends before.
    pub(crate) fn status(&mut self) -> Option<u16> {
        let end = loop {
            if let Some(end) = self.read.windows(4).position(|at| at == b"\r\n\r\n") {
                break end + 4;
            }
            self.more()?;
        };
        let head = String::from_utf8(self.read[..end].to_vec()).expect("ASCII");
        let status = head.split(' ').nth(1)?.parse().ok();
        let length = head.lines().find_map(|line| {
            let length = line.to_lowercase();
            length
                .strip_prefix("content-length: ")?
                .parse::<usize>()
                .ok()
        });
        let whole = end + length.unwrap_or(0);
        while self.read.len() < whole {
            self.more()?;
        }
        self.read.drain(..whole);
        status
    }

    fn more(&mut self) -> Option<()> {
        let mut buffer = [0; 4_096];
        match self.stream.read(&mut buffer) {
            Ok(0) => None,
            Ok(read) => {
                self.read.extend_from_slice(&buffer[..read]);
                Some(())
            }
            Err(error) => {
                let is_late = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                assert!(!is_late, "nothing arrived within {TIMEOUT:?}");
                None
            }
        }
    }

    /// Whether the server closes the connection.
    pub(crate) fn is_closed(&mut self) -> bool {
        while self.more().is_some() {}
        true
    }
}

/// The head of an upload with these fields, each with its line end.
pub(crate) fn head(fields: &str) -> Vec<u8> {
    format!("POST /upload HTTP/1.1\r\nhost: test\r\n{fields}\r\n").into_bytes()
}

pub(crate) const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n";

/// Runs a blocking client.
pub(crate) async fn blocking<T: Send + 'static>(client: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(client);
    done.await.expect("no panic")
}
