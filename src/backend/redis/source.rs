//! Where commands go: to connections of ours, or over one that the user has made.
//!
//! Decisions share connections: one is taken out of the pool, cloned, and given back before the first byte is written, so that
//! none is held for the length of a decision.

use std::fmt;
use std::sync::Arc;

use bb8_redis::redis::aio::ConnectionLike;
use bb8_redis::redis::{Cmd, RedisError, Value};

use super::super::BackendError;
use super::connections::Connections;
use super::fault::is_broken;
use super::life::Life;

/// A connection of the user's own, cloned for each use.
pub(super) trait Shared: Send + Sync {
    fn lend(&self) -> Box<dyn ConnectionLike + Send>;
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> Shared for C {
    fn lend(&self) -> Box<dyn ConnectionLike + Send> {
        Box::new(self.clone())
    }
}

/// Where commands go.
pub(super) enum Source {
    Pool(Connections),
    Shared(Box<dyn Shared>),
}

impl Source {
    pub(super) async fn lend(&self) -> Result<Lent, BackendError> {
        match self {
            Self::Pool(connections) => {
                let connection = connections.check_out().await?;
                Ok(Lent {
                    io: Box::new(connection.io.clone()),
                    life: Some(Arc::clone(&connection.life)),
                })
            }
            Self::Shared(shared) => Ok(Lent {
                io: shared.lend(),
                life: None,
            }),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pool(_) => "Pool",
            Self::Shared(_) => "Shared",
        })
    }
}

/// A clone of a connection.
pub(super) struct Lent {
    io: Box<dyn ConnectionLike + Send>,
    life: Option<Arc<Life>>,
}

impl Lent {
    /// Sends one command and waits for its answer.
    pub(super) async fn send(&mut self, command: &Cmd) -> Result<Value, RedisError> {
        let answer = self.io.req_packed_command(command).await;
        let answer = answer.and_then(Value::extract_error);
        if let Err(error) = &answer
            && is_broken(error)
        {
            self.retire();
        }
        answer
    }

    /// Lets the pool replace it, and those of its generation.
    pub(super) fn retire(&self) {
        if let Some(life) = &self.life {
            life.retire_generation();
        }
    }
}
