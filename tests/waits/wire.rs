//! Memory behind a wire: an operation is done when it arrives, and its reply comes when a test releases it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tower_sluice::backend::{Answer, Backend, BackendContext, Op, Reply};
use tower_sluice::{Key, Policy};

use crate::executor::{AlarmClock, Memory, memory};

#[derive(Clone)]
pub(crate) struct Wire(Arc<Shared>);

struct Shared {
    memory: Memory,
    is_open: watch::Sender<bool>,
    trouble: Mutex<Trouble>,
    sent: Mutex<Vec<&'static str>>,
}

/// The messages that the wire loses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Trouble {
    #[default]
    Nothing,
    /// Operations, and replies on their way.
    Everything,
    /// Operations of this kind.
    Only(&'static str),
    /// Like `Everything`, and each caller gets the error at once.
    Known,
}

/// The wire is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cut;

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the wire is cut")
    }
}

impl std::error::Error for Cut {}

impl Wire {
    pub(crate) fn new(clock: &AlarmClock) -> Self {
        Self::to(memory(clock))
    }

    pub(crate) fn to(memory: Memory) -> Self {
        Self(Arc::new(Shared {
            memory,
            is_open: watch::Sender::new(true),
            trouble: Mutex::default(),
            sent: Mutex::default(),
        }))
    }

    /// Holds all replies from now on.
    pub(crate) fn hold(&self) {
        self.0.is_open.send_replace(false);
    }

    /// Releases all replies.
    pub(crate) fn release(&self) {
        self.0.is_open.send_replace(true);
    }

    /// Drops all operations from now on, and all held replies.
    pub(crate) fn cut(&self) {
        *self.0.trouble.lock() = Trouble::Everything;
    }

    /// Drops all operations of this kind from now on.
    pub(crate) fn cut_for(&self, what: &'static str) {
        *self.0.trouble.lock() = Trouble::Only(what);
    }

    /// Fails each operation at once from now on, like an open circuit.
    pub(crate) fn open_circuit(&self) {
        *self.0.trouble.lock() = Trouble::Known;
    }

    pub(crate) fn mend(&self) {
        *self.0.trouble.lock() = Trouble::Nothing;
    }

    /// The operations sent since the last call.
    pub(crate) fn sent(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.0.sent.lock())
    }

    /// Like [`sent`](Self::sent), without clearing the record.
    pub(crate) fn all_sent(&self) -> Vec<&'static str> {
        self.0.sent.lock().clone()
    }

    /// The remaining tokens, and the time until the limit is full, in the remote memory.
    pub(crate) fn state(&self, policy: &Policy, key: &Key) -> (u64, Duration) {
        let reply = self.0.memory.ask(Op::Check(0.into()), policy, key);
        let Answer::Now(Ok(reply)) = reply else {
            unreachable!("memory answers at once");
        };
        let snapshot = reply.decision.snapshot();
        (snapshot.remaining(), snapshot.reset_after())
    }
}

impl Backend for Wire {
    type Error = Cut;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, Cut>> + Send>>;

    fn ask(&self, op: Op, policy: &Policy, key: &Key) -> Answer<Result<Reply, Cut>, Self::Future> {
        let (wire, policy, key) = (Arc::clone(&self.0), policy.clone(), key.clone());
        if *wire.trouble.lock() == Trouble::Known {
            return Answer::Now(Err(Cut));
        }
        Answer::Later(Box::pin(async move {
            let what = crate::queue::name_of(&op);
            wire.sent.lock().push(what);
            let trouble = *wire.trouble.lock();
            let arrives = match trouble {
                Trouble::Nothing => true,
                Trouble::Everything | Trouble::Known => false,
                Trouble::Only(kind) => kind != what,
            };
            let done = if arrives {
                match wire.memory.ask(op, &policy, &key) {
                    Answer::Now(Ok(reply)) => Ok(reply),
                    _ => unreachable!("memory answers at once"),
                }
            } else {
                Err(Cut)
            };
            let mut is_open = wire.is_open.subscribe();
            let _ = is_open.wait_for(|is_open| *is_open).await;
            match *wire.trouble.lock() {
                Trouble::Everything | Trouble::Known => Err(Cut),
                Trouble::Nothing | Trouble::Only(_) => done,
            }
        }))
    }

    fn context(&self) -> &BackendContext {
        self.0.memory.context()
    }
}

/// Runs all other tasks until they wait.
pub(crate) async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}
