//! Health checks in the background: a request never waits for a `PING`.
//!
//! Each connection has one task, in the runtime that drives the connection. The task ends with the connection, so all
//! tasks end with the backend.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::error::is_broken;
use super::generation::{ConnectionLife, KEEP_ALIVE};
use super::transport::{Command, Transport, TransportError, Value};

/// Replaces connections that are retired.
pub(super) trait Refill: Send + Sync {
    /// Opens a connection in the background if there is none, as long as the backend exists.
    fn refill(self: Arc<Self>);
}

/// Sends a `PING` whenever its connection was silent for [`KEEP_ALIVE`], and has a dead connection replaced.
pub(super) struct KeepAlive {
    pub(super) transport: Arc<dyn Transport>,
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
            // Listens before it checks: the connection may be retired in between.
            let mut changed = pin!(self.life.changed());
            changed.as_mut().enable();
            if self.life.is_over() {
                break;
            }
            let silence = self.life.silence();
            let (transport, patience) = (&*self.transport, self.patience);
            let step = async {
                match KEEP_ALIVE.checked_sub(silence) {
                    Some(rest) if !rest.is_zero() => {
                        sleep(rest).await;
                        Health::Unknown
                    }
                    _ => health(transport, patience).await,
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

/// Sends a `PING` and waits for the reply.
pub(super) async fn ping(transport: &dyn Transport) -> Result<(), TransportError> {
    let reply = transport.send(&Command::new("PING")).await;
    reply.and_then(Value::into_result).map(drop)
}

enum Health {
    Unknown,
    Alive,
    Dead,
}

async fn health(transport: &dyn Transport, patience: Duration) -> Health {
    match timeout(patience, ping(transport)).await {
        Ok(Ok(())) => Health::Alive,
        // Also an error is a reply, such as that the user may not send a `PING`.
        Ok(Err(error)) if !is_broken(&error) => Health::Alive,
        _ => Health::Dead,
    }
}
