//! The way of a command to Redis: over connections of the backend, or over a transport of the program.
//!
//! Decisions share connections. A decision takes one out of the pool and returns it before it sends the first byte, so
//! no connection is held during a decision.

use std::fmt;
use std::sync::Arc;

use super::super::BackendError;
use super::connections::ConnectionPool;
use super::error::is_broken;
use super::generation::ConnectionLife;
use super::known::KnownScripts;
use super::script::Script;
use super::transport::{Command, Transport, TransportError, Value};

/// The source of connections.
pub(super) enum ConnectionSource {
    Pool(ConnectionPool),
    Shared(Arc<dyn Transport>, Arc<KnownScripts>),
}

impl ConnectionSource {
    pub(super) fn shared(transport: impl Transport) -> Self {
        Self::Shared(Arc::new(transport), Arc::default())
    }

    pub(super) async fn borrow(&self) -> Result<BorrowedConnection, BackendError> {
        match self {
            Self::Pool(connections) => {
                let connection = connections.check_out().await?;
                Ok(BorrowedConnection {
                    transport: Arc::clone(&connection.transport),
                    owner: Owner::Backend(Arc::clone(&connection.life)),
                })
            }
            Self::Shared(transport, scripts) => Ok(BorrowedConnection {
                transport: Arc::clone(transport),
                owner: Owner::Program(Arc::clone(scripts)),
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

/// A connection for one round trip. Other round trips use it at the same time.
pub(super) struct BorrowedConnection {
    transport: Arc<dyn Transport>,
    owner: Owner,
}

/// The owner of a connection, with the state that the backend keeps of it.
enum Owner {
    Backend(Arc<ConnectionLife>),
    /// The connection may lead to several servers.
    Program(Arc<KnownScripts>),
}

impl BorrowedConnection {
    /// Sends one command and returns its reply. An error of the server is an error.
    pub(super) async fn send(&self, command: &Command) -> Result<Value, TransportError> {
        let reply = self.transport.send(command).await;
        if let (Ok(_), Owner::Backend(life)) = (&reply, &self.owner) {
            life.hear();
        }
        let reply = reply.and_then(Value::into_result);
        if let Err(error) = &reply
            && is_broken(error)
        {
            self.retire();
        }
        reply
    }

    /// Sends all commands at once. The value of a failed command is its error.
    pub(super) async fn send_all(
        &self,
        commands: &[Command],
    ) -> Result<Vec<Value>, TransportError> {
        let replies = self.transport.send_all(commands).await;
        if let (Ok(_), Owner::Backend(life)) = (&replies, &self.owner) {
            life.hear();
        }
        replies
    }

    fn scripts(&self) -> &KnownScripts {
        match &self.owner {
            Owner::Backend(life) => &life.scripts,
            Owner::Program(scripts) => scripts,
        }
    }

    /// Returns whether the server is known to have this script.
    pub(super) fn knows(&self, script: &Script) -> bool {
        self.scripts().has(script)
    }

    /// Notes that the server has run this script.
    pub(super) fn learn(&self, script: &Script) {
        if !self.knows(script) {
            self.scripts().add(script);
        }
    }

    /// Notes that the server lacks a script that it was known to have.
    pub(super) fn forget_scripts(&self) {
        if let Owner::Backend(life) = &self.owner {
            life.scripts.forget_all();
        }
    }

    /// Lets the pool replace this connection and all of its generation.
    pub(super) fn retire(&self) {
        if let Owner::Backend(life) = &self.owner {
            life.retire_generation();
        }
    }
}
