//! Where commands go: to connections of ours, or over one that the user has made.
//!
//! Decisions share connections: one is taken out of the pool, cloned, and given back before the first byte is written, so that
//! none is held for the length of a decision.

use std::fmt;
use std::sync::Arc;

use bb8_redis::redis::aio::ConnectionLike;
use bb8_redis::redis::{Cmd, Pipeline, RedisError, Value};

use super::super::BackendError;
use super::connections::Connections;
use super::fault::is_broken;
use super::known::KnownScripts;
use super::life::Life;
use super::script::Script;

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
    Shared(Box<dyn Shared>, Arc<KnownScripts>),
}

impl Source {
    pub(super) fn shared(connection: impl Shared + 'static) -> Self {
        Self::Shared(Box::new(connection), Arc::default())
    }

    pub(super) async fn lend(&self) -> Result<Lent, BackendError> {
        match self {
            Self::Pool(connections) => {
                let connection = connections.check_out().await?;
                Ok(Lent {
                    io: Box::new(connection.io.clone()),
                    way: Way::Own(Arc::clone(&connection.life)),
                })
            }
            Self::Shared(shared, scripts) => Ok(Lent {
                io: shared.lend(),
                way: Way::Shared(Arc::clone(scripts)),
            }),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pool(_) => "Pool",
            Self::Shared(..) => "Shared",
        })
    }
}

/// A clone of a connection.
pub(super) struct Lent {
    io: Box<dyn ConnectionLike + Send>,
    way: Way,
}

/// Whose connection it is, and what is known of it.
enum Way {
    Own(Arc<Life>),
    /// It may lead to several servers.
    Shared(Arc<KnownScripts>),
}

impl Lent {
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
