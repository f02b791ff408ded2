//! Where commands go: to connections of ours, or over one that the user has made.
//!
//! Decisions share connections: one is taken out of the pool, cloned, and given back before the first byte is written,
//! so that none is held for the length of a decision.

use std::fmt;
use std::sync::Arc;

use bb8_redis::redis::aio::ConnectionLike;
use bb8_redis::redis::{Cmd, Pipeline, RedisError, Value};

use super::super::BackendError;
use super::connections::ConnectionPool;
use super::error::is_broken;
use super::generation::ConnectionLife;
use super::known::KnownScripts;
use super::script::Script;

/// A connection of the user's own, cloned for each use.
pub(super) trait SharedConnection: Send + Sync {
    fn borrow(&self) -> Box<dyn ConnectionLike + Send>;
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> SharedConnection for C {
    fn borrow(&self) -> Box<dyn ConnectionLike + Send> {
        Box::new(self.clone())
    }
}

/// Where commands go.
pub(super) enum ConnectionSource {
    Pool(ConnectionPool),
    Shared(Box<dyn SharedConnection>, Arc<KnownScripts>),
}

impl ConnectionSource {
    pub(super) fn shared(connection: impl SharedConnection + 'static) -> Self {
        Self::Shared(Box::new(connection), Arc::default())
    }

    pub(super) async fn borrow(&self) -> Result<BorrowedConnection, BackendError> {
        match self {
            Self::Pool(connections) => {
                let connection = connections.check_out().await?;
                Ok(BorrowedConnection {
                    io: Box::new(connection.io.clone()),
                    way: Way::Own(Arc::clone(&connection.life)),
                })
            }
            Self::Shared(shared, scripts) => Ok(BorrowedConnection {
                io: shared.borrow(),
                way: Way::Shared(Arc::clone(scripts)),
            }),
        }
    }
}

impl fmt::Debug for ConnectionSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pool(_) => "Pool",
            Self::Shared(..) => "Shared",
        })
    }
}

/// A clone of a connection.
pub(super) struct BorrowedConnection {
    io: Box<dyn ConnectionLike + Send>,
    way: Way,
}

/// Whose connection it is, and what is known of it.
enum Way {
    Own(Arc<ConnectionLife>),
    /// It may lead to several servers.
    Shared(Arc<KnownScripts>),
}

impl BorrowedConnection {
    /// Sends one command and waits for its answer.
    pub(super) async fn send(&mut self, command: &Cmd) -> Result<Value, RedisError> {
        let answer = self.io.req_packed_command(command).await;
        if let (Ok(_), Way::Own(life)) = (&answer, &self.way) {
            life.hear();
        }
        let answer = answer.and_then(Value::extract_error);
        if let Err(error) = &answer
            && is_broken(error)
        {
            self.retire();
        }
        answer
    }

    /// Sends `count` commands at once. Those that failed have their error as answer.
    pub(super) async fn send_all(
        &mut self,
        commands: &Pipeline,
        count: usize,
    ) -> Result<Vec<Value>, RedisError> {
        let answers = self.io.req_packed_commands(commands, 0, count).await;
        if let (Ok(_), Way::Own(life)) = (&answers, &self.way) {
            life.hear();
        }
        answers
    }

    fn scripts(&self) -> &KnownScripts {
        match &self.way {
            Way::Own(life) => &life.scripts,
            Way::Shared(scripts) => scripts,
        }
    }

    /// Whether the server is known to have this script.
    pub(super) fn knows(&self, script: &Script) -> bool {
        self.scripts().has(script)
    }

    /// The server has run this script.
    pub(super) fn learn(&self, script: &Script) {
        if !self.knows(script) {
            self.scripts().add(script);
        }
    }

    /// The server did not have a script that it was known to have.
    pub(super) fn forget_scripts(&self) {
        if let Way::Own(life) = &self.way {
            life.scripts.forget_all();
        }
    }

    /// Lets the pool replace it, and those of its generation.
    pub(super) fn retire(&self) {
        if let Way::Own(life) = &self.way {
            life.retire_generation();
        }
    }
}
