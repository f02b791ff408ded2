//! A Redis whose TIME is that of a manual clock: a TCP proxy in front of a real server.
//!
//! It serves backends that decide by a plain TIME command. Scripts take the time from an optional first argument, which
//! the proxy sets. If a test can use its own connection, [`frozen`](super::frozen) does the same.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tower_sluice::clock::{Clock, ManualClock};

use super::frames::{Frames, first_word};

/// Forwards everything except the replies to TIME and the arguments of scripts. A drop closes it and its connections.
#[derive(Debug)]
pub(crate) struct ClockProxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    clock: ManualClock,
    /// A command of another client, sent before every MULTI.
    interference: Mutex<Option<Vec<u8>>>,
}

impl ClockProxy {
    /// A proxy to 127.0.0.1, at a port of its own.
    pub(crate) async fn to(port: u16, clock: &ManualClock) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared {
            server: ([127, 0, 0, 1], port).into(),
            clock: clock.clone(),
            interference: Mutex::default(),
        });
        let task = tokio::spawn(shared.clone().accept(listener));
        Self {
            shared,
            address,
            task,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}/", self.address)
    }

    pub(crate) const fn port(&self) -> u16 {
        self.address.port()
    }

    /// From now on another client sends this command, and has its reply, before each transaction.
    pub(crate) fn interfere(&self, command: &redis::Cmd) {
        *self.shared.interference.lock() = Some(command.get_packed_command());
    }

    pub(crate) fn stop_interfering(&self) {
        *self.shared.interference.lock() = None;
    }
}

impl Drop for ClockProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    async fn accept(self: Arc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        while let Ok((client, _)) = listener.accept().await {
            let shared = self.clone();
            connections.spawn(async move { drop(shared.connect(client).await) });
            while connections.try_join_next().is_some() {}
        }
    }

    async fn connect(&self, client: TcpStream) -> io::Result<()> {
        let server = TcpStream::connect(self.server).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        // For each request without a reply: whether it is a TIME.
        let open = Mutex::new(VecDeque::new());
        tokio::select! {
            ended = self.requests(from_client, to_server, &open) => ended,
            ended = self.replies(from_server, to_client, &open) => ended,
        }
    }

    async fn requests(
        &self,
        from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        open: &Mutex<VecDeque<bool>>,
    ) -> io::Result<()> {
        let mut frames = Frames::of(from);
        while let Some(mut frame) = frames.next().await? {
            let word = first_word(&frame);
            if word.starts_with("EVAL") {
                frame = reported(&frame, self.clock.now().as_micros());
            }
            let interference = self.interference.lock().clone();
            if word == "MULTI"
                && let Some(command) = interference
            {
                self.other_client(&command).await?;
            }
            open.lock().push_back(word == "TIME");
            to.write_all(&frame).await?;
        }
        Ok(())
    }

    async fn other_client(&self, command: &[u8]) -> io::Result<()> {
        let mut other = TcpStream::connect(self.server).await?;
        other.write_all(command).await?;
        other.read_u8().await.map(drop)
    }

    async fn replies(
        &self,
        from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        open: &Mutex<VecDeque<bool>>,
    ) -> io::Result<()> {
        let mut frames = Frames::of(from);
        while let Some(mut frame) = frames.next().await? {
            let is_time = open.lock().pop_front() == Some(true);
            if is_time && frame.starts_with(b"*2\r\n") {
                let now = self.clock.now().as_micros();
                let (seconds, micros) =
                    ((now / 1_000_000).to_string(), (now % 1_000_000).to_string());
                let (one, two) = (seconds.len(), micros.len());
                frame = format!("*2\r\n${one}\r\n{seconds}\r\n${two}\r\n{micros}\r\n").into_bytes();
            }
            to.write_all(&frame).await?;
        }
        Ok(())
    }
}

/// The request of a script, with the time as the first argument after the keys.
fn reported(request: &[u8], micros: u64) -> Vec<u8> {
    let mut words = strings(request);
    let keys: usize = String::from_utf8_lossy(&words[2])
        .parse()
        .expect("a number");
    let time = &mut words[3 + keys];
    assert_eq!(*time, b"", "only a test passes a time to scripts");
    *time = micros.to_string().into_bytes();
    let mut reported = redis::Cmd::new();
    reported.arg(words);
    reported.get_packed_command()
}

/// The strings of a request: `*2\r\n$3\r\nGET\r\n$1\r\na\r\n`.
fn strings(request: &[u8]) -> Vec<Vec<u8>> {
    let line = |bytes: &mut &[u8]| -> usize {
        let end = bytes.windows(2).position(|two| two == b"\r\n");
        let (head, rest) = bytes.split_at(end.expect("a whole request"));
        *bytes = &rest[2..];
        let digits = std::str::from_utf8(&head[1..]).expect("a length in digits");
        digits.parse().expect("a length in digits")
    };
    let mut rest = request;
    let count = line(&mut rest);
    let mut next = || {
        let length = line(&mut rest);
        let (string, after) = rest.split_at(length);
        rest = &after[2..];
        string.to_vec()
    };
    (0..count).map(|_| next()).collect()
}
