//! Health checks in the background: a request never waits for a `PING`.
//!
//! Each connection has one task, in the runtime that drives the connection. It ends with the connection, and so with
//! the backend.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bb8_redis::redis::aio::MultiplexedConnection;
use bb8_redis::redis::cmd;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::error::is_broken;
use super::generation::{ConnectionLife, KEEP_ALIVE};

/// What replaces connections that are retired.
pub(super) trait Refill: Send + Sync {
    /// Opens a connection in the background if none is left, as long as the backend exists.
    fn refill(self: Arc<Self>);
}

/// Sends a `PING` whenever its connection was silent for [`KEEP_ALIVE`], and has a dead connection replaced.
pub(super) struct KeepAlive {
    pub(super) io: MultiplexedConnection,
    pub(super) life: Arc<ConnectionLife>,
    /// Completes when the connection is dropped.
    pub(super) closed: oneshot::Receiver<Infallible>,
    /// The longest time that a `PING` may take.
    pub(super) patience: Duration,
    pub(super) home: Weak<dyn Refill>,
}

impl KeepAlive {
    pub(super) async fn run(mut self) {
        loop {
            // Listens first: the connection may be retired between the look and the listening.
            let mut changed = pin!(self.life.changed());
            changed.as_mut().enable();
            if self.life.is_over() {
                break;
            }
            let silence = self.life.silence();
            let (io, patience) = (&mut self.io, self.patience);
            let step = async {
                match KEEP_ALIVE.checked_sub(silence) {
                    Some(rest) if !rest.is_zero() => {
                        sleep(rest).await;
                        Health::Unknown
                    }
                    _ => ping(io, patience).await,
                }
            };
            let health = tokio::select! {
                biased;
                _ = &mut self.closed => return,
                () = changed => Health::Unknown,
                health = step => health,
            };
            match health {
                Health::Unknown => {}
                Health::Alive => self.life.hear(),
                Health::Dead => self.life.retire_generation(),
            }
        }
        if let Some(pool) = self.home.upgrade() {
            pool.refill();
        }
    }
}

enum Health {
    Unknown,
    Alive,
    Dead,
}

async fn ping(io: &mut MultiplexedConnection, patience: Duration) -> Health {
    match timeout(patience, cmd("PING").exec_async(io)).await {
        Ok(Ok(())) => Health::Alive,
        // An answer, if only that the user may not ask.
        Ok(Err(error)) if !is_broken(&error) => Health::Alive,
        _ => Health::Dead,
    }
}
