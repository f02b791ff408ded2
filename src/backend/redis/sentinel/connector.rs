//! Connections to the primary of a name.

use std::fmt;
use std::sync::Arc;

use super::super::transport::{
    Connector, Transport, TransportError, TransportErrorKind, TransportFuture,
};
use super::query;
use super::state::PrimaryState;
use super::watch;

/// Opens connections to the primary.
pub(in super::super) struct SentinelConnector(pub(in super::super) Arc<PrimaryState>);

impl Connector for SentinelConnector {
    fn connect(&self) -> TransportFuture<'_, Arc<dyn Transport>> {
        Box::pin(async move {
            let state = &self.0;
            watch::ensure(state);
            let address = match state.primary() {
                Some(address) => address,
                None => {
                    let view = state.look_up().await?;
                    state.accept(view).ok_or_else(|| {
                        not_yet("the sentinels know of a newer failover".to_owned())
                    })?
                }
            };
            let connection = state.client_of(&address)?.connect().await;
            let connection = connection.inspect_err(|_| state.forget(&address))?;
            match query::role(&*connection).await {
                Ok(Some(role)) if role != "master" => {
                    state.forget(&address);
                    Err(not_yet(format!(
                        "the server at {address} is no primary yet or no longer"
                    )))
                }
                Ok(_) => Ok(connection),
                Err(error) => {
                    state.forget(&address);
                    Err(error)
                }
            }
        })
    }
}

/// The error while the primary changes. Nothing was sent, so the operation tries again.
fn not_yet(why: String) -> TransportError {
    TransportError::new(TransportErrorKind::Refused, why)
}

impl fmt::Debug for SentinelConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SentinelConnector")
            .field("name", &self.0.settings.name)
            .finish_non_exhaustive()
    }
}
