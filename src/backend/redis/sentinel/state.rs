//! The address of the primary, and its lookup in the sentinels.

use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::super::adapter::RedisClient;
use super::super::builder::AddressMap;
use super::super::round_trip::ScriptClient;
use super::super::single_task::SingleTask;
use super::super::source::ConnectionSource;
use super::super::transport::{Connector, TransportError, TransportErrorKind};
use super::query::{self, Address, PrimaryView};
use crate::telemetry;

/// The longest time that a sentinel takes to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// The sentinels, and the settings of connections to the primary.
pub(in super::super) struct SentinelSettings {
    pub(in super::super) sentinels: Vec<RedisClient>,
    /// The name of the primary in the configuration of the sentinels.
    pub(in super::super) name: String,
    /// A client with the credentials, the database and the TLS settings of the primary.
    pub(in super::super) template: RedisClient,
    pub(in super::super) addresses: Option<AddressMap>,
}

/// The primary, and the number of the failover that made it the primary.
struct KnownPrimary {
    address: Option<Address>,
    epoch: u64,
    /// The time of the last reply that named this primary.
    confirmed: Instant,
}

/// The time after which an older view of the sentinels counts, because they were set up again.
const STALE: Duration = Duration::from_secs(10);

/// The current primary, and the task that follows it.
pub(in super::super) struct PrimaryState {
    pub(super) settings: SentinelSettings,
    known: Mutex<KnownPrimary>,
    /// The user of the connections, which retires them when the primary has changed.
    client: OnceLock<Weak<ScriptClient>>,
    /// The background task.
    pub(super) watching: SingleTask,
}

impl PrimaryState {
    pub(in super::super) fn new(settings: SentinelSettings) -> Arc<Self> {
        Arc::new(Self {
            settings,
            known: Mutex::new(KnownPrimary {
                address: None,
                epoch: 0,
                confirmed: Instant::now(),
            }),
            client: OnceLock::new(),
            watching: SingleTask::default(),
        })
    }

    /// Sets the user of the connections, once.
    pub(in super::super) fn follow(&self, client: &Arc<ScriptClient>) {
        // It is set once, when the backend is built.
        let _ = self.client.set(Arc::downgrade(client));
    }

    /// Returns the primary. Returns `None` if it must be looked up.
    pub(super) fn primary(&self) -> Option<Address> {
        self.known.lock().address.clone()
    }

    /// Notes the view of the sentinels and returns the primary. Returns `None` if the view is out of date.
    ///
    /// Sentinels learn of a failover one after the other. An older view counts again once no other was seen for
    /// [`STALE`].
    pub(super) fn accept(&self, view: PrimaryView) -> Option<Address> {
        let before = {
            let mut known = self.known.lock();
            if view.epoch < known.epoch && known.confirmed.elapsed() < STALE {
                return None;
            }
            (known.epoch, known.confirmed) = (view.epoch, Instant::now());
            known.address.replace(view.address.clone())
        };
        self.changed(before, &view.address);
        Some(view.address)
    }

    /// Notes that `address` was promoted. The sentinels name the old primary until they have announced the new one.
    pub(super) fn promoted(&self, address: &Address) {
        let before = {
            let mut known = self.known.lock();
            if known.address.as_ref() != Some(address) {
                known.epoch += 1;
            }
            known.confirmed = Instant::now();
            known.address.replace(address.clone())
        };
        self.changed(before, address);
    }

    /// Retires all connections if the primary has changed, and lets the circuit try the new one at once.
    fn changed(&self, before: Option<Address>, now: &Address) {
        if before.as_ref() == Some(now) {
            return;
        }
        if let Some(client) = self.client.get().and_then(Weak::upgrade) {
            if let ConnectionSource::Pool(connections) = &client.source {
                connections.retire_all();
            }
            client.breaker.probe_now();
        }
        if let Some(before) = before {
            telemetry::primary_changed(&self.settings.name, &before, now);
        }
    }

    /// Forgets the primary, unless it has changed meanwhile. The next connection asks the sentinels.
    pub(super) fn forget(&self, address: &Address) {
        let mut known = self.known.lock();
        if known.address.as_ref() == Some(address) {
            known.address = None;
        }
    }

    pub(super) fn client_of(&self, address: &Address) -> Result<RedisClient, TransportError> {
        let (host, port) = match &self.settings.addresses {
            Some(map) => map(&address.host, address.port),
            None => (address.host.clone(), address.port),
        };
        let client = self.settings.template.to_host(&host, port);
        client.map_err(|error| TransportError::new(TransportErrorKind::Client, error))
    }

    /// Asks all sentinels at once, and returns the latest of the answers of a majority, or of all within [`PATIENCE`].
    pub(super) async fn look_up(self: &Arc<Self>) -> Result<PrimaryView, TransportError> {
        let mut asked = JoinSet::new();
        for index in 0..self.settings.sentinels.len() {
            let state = Arc::clone(self);
            asked.spawn(async move {
                let ask = async {
                    let sentinel = state.settings.sentinels[index].connect().await?;
                    query::primary(&*sentinel, &state.settings.name).await
                };
                timeout(PATIENCE, ask).await
            });
        }
        let mut latest: Option<PrimaryView> = None;
        let (mut answers, mut failure) = (0, None);
        while let Some(answer) = asked.join_next().await {
            match answer {
                Ok(Ok(Ok(Some(view)))) => {
                    if latest
                        .as_ref()
                        .is_none_or(|latest| latest.epoch < view.epoch)
                    {
                        latest = Some(view);
                    }
                    answers += 1;
                    if 2 * answers > self.settings.sentinels.len() {
                        break;
                    }
                }
                Ok(Ok(Err(error))) => failure = Some(error),
                _ => {}
            }
        }
        latest.ok_or_else(|| {
            failure.unwrap_or_else(|| {
                let why = format!("no sentinel knows a primary named {:?}", self.settings.name);
                TransportError::new(TransportErrorKind::Client, why)
            })
        })
    }
}
