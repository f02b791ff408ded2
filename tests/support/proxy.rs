//! A network that fails on demand: a TCP proxy in front of one server. It knows the bounds of requests and replies
//! (RESP2).
//!
//! The file is long because each mode needs the state of both directions of a connection.

use std::collections::{HashMap, VecDeque};
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use super::frames::{Frames, first_word};
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

/// The way in which the proxy treats all connections, including open ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Forwards everything.
    Pass,
    /// Executes the `n`-th decision (EVALSHA, EVAL or EXEC) from now on, and closes the connection instead of sending
    /// its reply. Once.
    CutAfterRequest(usize),
    /// Cuts the reply to the `n`-th decision from now on after this many bytes, and closes the connection. Once.
    CutInReply(usize, usize),
    /// Each byte, in each direction, is a packet of its own, delayed this much after the one before.
    Trickle(Duration),
    /// Delays everything this much, like a server at half such a round trip. Delays overlap. A new connection takes one
    /// more round trip.
    Delay(Duration),
    /// Reads and never replies. A connection that has lost a byte this way stays dead, without a sign to either side.
    Swallow,
    /// Refuses new connections, and closes open ones.
    Refuse,
}

/// The commands that change Redis, or may change it.
const DECISIONS: [&str; 3] = ["EVALSHA", "EVAL", "EXEC"];

/// A proxy in front of one address. A drop closes it and its connections.
#[derive(Debug)]
pub(crate) struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    mode: watch::Sender<Mode>,
    listens: watch::Sender<bool>,
    /// The decisions until the cut, for the two modes that cut.
    until_cut: AtomicUsize,
    connections: AtomicUsize,
    /// The number of first connections that are dead.
    lost: AtomicUsize,
    /// The number of first connections whose requests are held.
    held: watch::Sender<usize>,
    close: Notify,
    to_server: AtomicU64,
    to_client: AtomicU64,
    commands: Mutex<HashMap<String, usize>>,
}

impl Proxy {
    /// A proxy to 127.0.0.1, at a port of its own, that forwards everything.
    pub(crate) async fn to(port: u16) -> Self {
        let (listener, address) = loop {
            let address = SocketAddr::from(([127, 0, 0, 1], super::free_port()));
            if let Ok(listener) = TcpListener::bind(address).await {
                break (listener, address);
            }
        };
        let shared = Arc::new(Shared {
            server: ([127, 0, 0, 1], port).into(),
            mode: watch::Sender::new(Mode::Pass),
            listens: watch::Sender::new(true),
            until_cut: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            lost: AtomicUsize::new(0),
            held: watch::Sender::new(0),
            close: Notify::new(),
            to_server: AtomicU64::new(0),
            to_client: AtomicU64::new(0),
            commands: Mutex::default(),
        });
        let task = tokio::spawn(shared.clone().accept(listener, address));
        Self {
            shared,
            address,
            task,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}/", self.address)
    }

    /// Returns once the mode is in force.
    pub(crate) async fn set(&self, mode: Mode) {
        if let Mode::CutAfterRequest(n) | Mode::CutInReply(n, _) = mode {
            self.shared.until_cut.store(n, SeqCst);
        }
        self.shared.mode.send_replace(mode);
        let mut listens = self.shared.listens.subscribe();
        let settled = listens.wait_for(|listens| *listens != (mode == Mode::Refuse));
        settled.await.expect("the sender exists");
    }

    pub(crate) fn mode(&self) -> Mode {
        *self.shared.mode.borrow()
    }

    /// The number of accepted connections.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(SeqCst)
    }

    /// Bytes sent to the server, and to the client.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let Shared {
            to_server,
            to_client,
            ..
        } = &*self.shared;
        (to_server.load(SeqCst), to_client.load(SeqCst))
    }

    /// The number of requests to the server with this command name.
    pub(crate) fn count(&self, command: &str) -> usize {
        let commands = self.shared.commands.lock();
        commands
            .get(&command.to_uppercase())
            .copied()
            .unwrap_or_default()
    }

    /// The number of decisions sent to the server.
    pub(crate) fn decisions(&self) -> usize {
        DECISIONS.iter().map(|command| self.count(command)).sum()
    }

    /// Holds everything that the open connections send from now on. New connections are not affected.
    pub(crate) fn hold(&self) {
        self.shared.held.send_replace(self.connections());
    }

    /// Closes the client side of the held connections. Their requests stay held.
    pub(crate) fn close_held(&self) {
        self.shared.close.notify_waiters();
    }

    /// Sends all held requests to the server, also those of closed connections.
    pub(crate) fn release_held(&self) {
        self.shared.held.send_replace(0);
    }

    /// Makes all open connections dead, like a firewall that drops its state. New connections are not affected.
    pub(crate) fn lose_connections(&self) {
        self.shared.lost.store(self.connections(), SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    async fn accept(self: Arc<Self>, listener: TcpListener, address: SocketAddr) {
        let mut listener = Some(listener);
        let mut mode = self.mode.subscribe();
        let mut connections = JoinSet::new();
        loop {
            let refuses = *mode.borrow_and_update() == Mode::Refuse;
            if refuses && listener.is_some() {
                listener = None;
                connections.shutdown().await;
                self.listens.send_replace(false);
            } else if !refuses && listener.is_none() {
                let bound = TcpListener::bind(address).await;
                listener = Some(bound.expect("the port was free"));
                self.listens.send_replace(true);
            }
            let accepted = async {
                match &listener {
                    Some(listener) => listener.accept().await,
                    None => pending().await,
                }
            };
            tokio::select! {
                changed = mode.changed() => if changed.is_err() { return },
                Ok((client, _)) = accepted => {
                    let number = self.connections.fetch_add(1, SeqCst) + 1;
                    let shared = self.clone();
                    connections.spawn(async move { drop(shared.connect(client, number).await) });
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }

    /// One connection, until either side closes it or the proxy cuts it.
    async fn connect(&self, client: TcpStream, number: usize) -> io::Result<()> {
        let server = TcpStream::connect(self.server).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let mode = *self.mode.borrow();
        if let Mode::Delay(delay) = mode {
            tokio::time::sleep(2 * delay).await;
        }
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let (to_client, to_server) = (
            Direction::Straight(to_client),
            Direction::Straight(to_server),
        );
        let (actions, dead) = (Mutex::default(), DeadConnection::of(number));
        tokio::select! {
            ended = self.requests(from_client, to_server, &actions, &dead) => ended,
            ended = self.replies(from_server, to_client, &actions, &dead) => ended,
        }
    }

    async fn requests(
        &self,
        from: OwnedReadHalf,
        mut to: Direction,
        actions: &Mutex<VecDeque<ReplyAction>>,
        dead: &DeadConnection,
    ) -> io::Result<()> {
        let mut frames = Frames::of(from);
        while let Some(frame) = frames.next().await? {
            if self.swallows(dead) {
                continue;
            }
            let mut held = self.held.subscribe();
            let passes = held.wait_for(|held| dead.number > *held);
            drop(passes.await.expect("the sender exists"));
            let command = first_word(&frame);
            let is_decision = DECISIONS.contains(&&*command);
            actions.lock().push_back(self.action(is_decision));
            self.forward(&mut to, &frame, &self.to_server).await?;
            *self.commands.lock().entry(command).or_default() += 1;
        }
        to.shutdown().await
    }

    async fn replies(
        &self,
        from: OwnedReadHalf,
        mut to: Direction,
        actions: &Mutex<VecDeque<ReplyAction>>,
        dead: &DeadConnection,
    ) -> io::Result<()> {
        let mut frames = Frames::of(from);
        loop {
            let frame = tokio::select! {
                frame = frames.next() => frame?,
                () = self.close.notified() => {
                    if dead.number <= *self.held.borrow() {
                        to.shutdown().await?;
                    }
                    continue;
                }
            };
            let Some(frame) = frame else {
                return to.shutdown().await;
            };
            // A server that closes at once sends its reason unasked.
            let action = actions.lock().pop_front().unwrap_or(ReplyAction::Whole);
            if self.swallows(dead) {
                continue;
            }
            match action {
                ReplyAction::Whole => self.forward(&mut to, &frame, &self.to_client).await?,
                ReplyAction::Lost => return to.shutdown().await,
                ReplyAction::Part(bytes) => {
                    to.write(&frame[..bytes.min(frame.len() - 1)], Duration::ZERO)
                        .await?;
                    return to.shutdown().await;
                }
            }
        }
    }

    fn action(&self, is_decision: bool) -> ReplyAction {
        let mode = *self.mode.borrow();
        let action = match mode {
            Mode::CutAfterRequest(_) if is_decision => ReplyAction::Lost,
            Mode::CutInReply(_, bytes) if is_decision => ReplyAction::Part(bytes),
            _ => return ReplyAction::Whole,
        };
        if self.until_cut.fetch_sub(1, SeqCst) == 1 {
            self.mode.send_if_modified(|now| {
                let still = *now == mode;
                if still {
                    *now = Mode::Pass;
                }
                still
            });
            return action;
        }
        ReplyAction::Whole
    }

    /// Whether this connection is dead.
    fn swallows(&self, dead: &DeadConnection) -> bool {
        if *self.mode.borrow() == Mode::Swallow || dead.number <= self.lost.load(SeqCst) {
            dead.is_one.store(true, SeqCst);
        }
        dead.is_one.load(SeqCst)
    }

    async fn forward(&self, to: &mut Direction, bytes: &[u8], count: &AtomicU64) -> io::Result<()> {
        let mode = || *self.mode.borrow();
        let mut rest = bytes;
        while let Mode::Trickle(delay) = mode()
            && let Some((byte, after)) = rest.split_first()
        {
            match delay {
                Duration::ZERO => tokio::task::yield_now().await,
                delay => tokio::time::sleep(delay).await,
            }
            to.write(&[*byte], Duration::ZERO).await?;
            rest = after;
        }
        let delay = match mode() {
            Mode::Delay(delay) => delay,
            _ => Duration::ZERO,
        };
        to.write(rest, delay).await?;
        count.fetch_add(bytes.len() as u64, SeqCst);
        Ok(())
    }
}

/// One direction of a connection: bytes arrive in order, each at its time.
enum Direction {
    Straight(OwnedWriteHalf),
    /// From the first delay on.
    Long(Option<mpsc::UnboundedSender<(Instant, Vec<u8>)>>, Writer),
}

/// Aborted on drop.
struct Writer(JoinHandle<io::Result<()>>);

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Direction {
    async fn write(&mut self, bytes: &[u8], delay: Duration) -> io::Result<()> {
        if let Self::Straight(side) = self
            && delay.is_zero()
        {
            return side.write_all(bytes).await;
        }
        if let Self::Straight(_) = self {
            let (parcels, sent) = mpsc::unbounded_channel();
            let idle = Writer(tokio::spawn(async { Ok(()) }));
            if let Self::Straight(side) = std::mem::replace(self, Self::Long(None, idle)) {
                *self = Self::Long(Some(parcels), Writer(tokio::spawn(deliver(sent, side))));
            }
        }
        if let Self::Long(Some(parcels), _) = self {
            // The reader notices a closed side.
            let _ = parcels.send((Instant::now() + delay, bytes.to_vec()));
        }
        Ok(())
    }

    /// Returns once everything has arrived and the side is closed.
    async fn shutdown(&mut self) -> io::Result<()> {
        match self {
            Self::Straight(side) => side.shutdown().await,
            Self::Long(parcels, writer) => {
                let is_open = parcels.take().is_some();
                if is_open {
                    (&mut writer.0).await.unwrap_or(Ok(()))
                } else {
                    Ok(())
                }
            }
        }
    }
}

async fn deliver(
    mut sent: mpsc::UnboundedReceiver<(Instant, Vec<u8>)>,
    mut side: OwnedWriteHalf,
) -> io::Result<()> {
    while let Some((due, bytes)) = sent.recv().await {
        if due > Instant::now() {
            tokio::time::sleep_until(due.into()).await;
        }
        side.write_all(&bytes).await?;
    }
    side.shutdown().await
}

/// Whether the `number`-th connection is dead.
struct DeadConnection {
    number: usize,
    is_one: AtomicBool,
}

impl DeadConnection {
    const fn of(number: usize) -> Self {
        Self {
            number,
            is_one: AtomicBool::new(false),
        }
    }
}

/// The treatment of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReplyAction {
    Whole,
    Lost,
    Part(usize),
}
