//! From a request to the node that has its slot: redirects are followed, and what was not done is sent again.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::super::super::{BackendError, BackendErrorKind};
use super::super::alerts::Alerts;
use super::super::detached_trip::DetachedTrip;
use super::super::error::{ConnectTimeout, is_not_done, is_split};
use super::super::round_trip::{RedisResult, pause};
use super::node::{Node, NodeSettings, RoutedRequest};
use super::redirect::NextStep;
use super::slot;
use super::topology::Topology;
use super::{refresh, view};
use crate::telemetry;

pub(in super::super) struct Router {
    topology: Arc<Topology>,
    time_limit: Duration,
    /// Faults that concern no single node.
    pub(in super::super) alerts: Alerts,
}

/// The error when no node has served a slot within the time limit, as during a failover.
#[derive(Debug)]
struct Unserved(usize);

impl fmt::Display for Unserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no node of the Redis Cluster serves slot {}", self.0)
    }
}

impl std::error::Error for Unserved {}

/// Returns whether an error with this code means that the node does not serve the slot.
fn is_unserved(code: &str) -> bool {
    matches!(code, "CLUSTERDOWN" | "MOVED" | "ASK")
}

/// The redirects that are followed without a pause. A map that settles needs one or two.
const MOST_REDIRECTS: u32 = 5;
/// The longest pause before a request is sent again.
const LONGEST_PAUSE: Duration = Duration::from_millis(40);

impl Router {
    pub(in super::super) const fn time_limit(&self) -> Duration {
        self.time_limit
    }

    pub(in super::super) fn new(
        settings: NodeSettings,
        seeds: impl IntoIterator<Item = (String, u16)>,
    ) -> Arc<Self> {
        let time_limit = settings.time_limit;
        let seeds = seeds.into_iter();
        let seeds = seeds.map(|(host, port)| view::NodeAddress::new(&host, port));
        Arc::new(Self {
            topology: Arc::new(Topology::new(settings, seeds.collect())),
            time_limit,
            alerts: Alerts::default(),
        })
    }

    /// Returns whether the circuit of the node of this key rejects a request; `rejects` asks it.
    pub(in super::super) fn is_open_for<R: RoutedRequest>(
        &self,
        request: &R,
        rejects: impl Fn(&super::super::breaker::Breaker) -> bool,
    ) -> bool {
        let owner = self.topology.owner(slot::of_key(request.key()));
        owner.is_some_and(|node| rejects(&node.client.breaker))
    }

    /// Waits for the first map, for at most this time.
    pub(in super::super) async fn until_known(&self, patience: Duration) -> bool {
        refresh::ensure(&self.topology);
        self.topology.until_known(patience).await
    }

    /// Returns the addresses of the nodes that serve slots, each with a test for the keys that it has.
    pub(in super::super) fn nodes(&self) -> Vec<NodeKeys> {
        let keys = |node| NodeKeys {
            topology: Arc::clone(&self.topology),
            node,
        };
        self.topology.nodes().into_iter().map(keys).collect()
    }

    /// Sends one request to the node of its key and returns its outcome, within the time limit.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, a round trip in flight completes in the background. The request is sent to no other
    /// node.
    pub(in super::super) async fn send<R: RoutedRequest>(
        self: Arc<Self>,
        request: R,
    ) -> RedisResult<R::Reply> {
        let began = self.begin().await?;
        let slot = slot::of_key(request.key());
        let outcome = self.route(slot, Arc::new(request), began).await;
        outcome.map_err(|error| self.failed(slot, error))
    }

    /// Returns the time at which a request begins. Waits for the first map.
    pub(super) async fn begin(&self) -> Result<Instant, BackendError> {
        let began = Instant::now();
        refresh::ensure(&self.topology);
        if !self.topology.is_known() && !self.topology.until_known(self.time_limit).await {
            let cause = ConnectTimeout(self.time_limit);
            let error = BackendError::because(BackendErrorKind::Unreachable, cause);
            telemetry::backend_failure(error.kind().label());
            return Err(error);
        }
        Ok(began)
    }

    /// Reports the final error of a request, and returns it for the caller.
    pub(super) fn failed(&self, slot: usize, error: BackendError) -> BackendError {
        // The nodes have reported all other failures.
        if !is_not_done(&error) {
            return error;
        }
        let error = match error.kind() {
            BackendErrorKind::Server(code) if is_unserved(code) => {
                BackendError::because(BackendErrorKind::Unreachable, Unserved(slot))
            }
            _ => error,
        };
        telemetry::backend_failure(error.kind().label());
        error
    }

    /// Sends a request until it was done or has failed. A request that has parts and whose keys are on two nodes fails
    /// at once.
    pub(super) async fn route<R: RoutedRequest>(
        &self,
        slot: usize,
        request: Arc<R>,
        began: Instant,
    ) -> RedisResult<R::Reply> {
        let (mut redirects, mut repeats) = (0, 0);
        let mut is_repeated = false;
        let mut asking: Option<Arc<Node>> = None;
        loop {
            let (error, step) = match asking
                .take()
                .map_or_else(|| self.owner(slot), |node| Ok((node, true)))
            {
                Ok((node, is_asking)) => {
                    let trip = self.trip(&node, &request, is_asking, began);
                    match trip.await {
                        Ok(mut reply) => {
                            if is_repeated {
                                R::note_repeat(&mut reply);
                            }
                            return Ok(reply);
                        }
                        Err(error) => {
                            let step = NextStep::after(&error, &node.address);
                            (error, step)
                        }
                    }
                }
                Err(error) => (error, NextStep::Pause),
            };
            if step == NextStep::Again && redirects < MOST_REDIRECTS {
                redirects += 1;
                continue;
            }
            // The map may be out of date after any failure of a node.
            if step != NextStep::Fail || error.is_outage() {
                self.topology.wanted.notify_one();
            }
            let is_lost = matches!(
                error.kind(),
                BackendErrorKind::Lost | BackendErrorKind::Timeout(_)
            );
            match step {
                NextStep::Moved(to) if redirects < MOST_REDIRECTS => {
                    redirects += 1;
                    if let Some(node) = self.topology.node_at(to) {
                        self.topology.moved(slot, &node);
                    }
                    continue;
                }
                NextStep::Ask(to) if redirects < MOST_REDIRECTS => {
                    redirects += 1;
                    asking = self.topology.node_at(to);
                    continue;
                }
                NextStep::Fail if R::IS_REPEATABLE && is_lost => is_repeated = true,
                NextStep::Fail => return Err(error),
                NextStep::Pause if is_split(&error) && request.has_parts() => return Err(error),
                NextStep::Moved(_) | NextStep::Ask(_) | NextStep::Again | NextStep::Pause => {}
            }
            redirects = 0;
            repeats += 1;
            let pause = pause(repeats.min(3)).min(LONGEST_PAUSE);
            if began.elapsed() + pause >= self.time_limit {
                return Err(error);
            }
            sleep(pause).await;
        }
    }

    fn owner(&self, slot: usize) -> Result<(Arc<Node>, bool), BackendError> {
        let owner = self.topology.owner(slot).map(|node| (node, false));
        owner.ok_or_else(|| BackendError::new(BackendErrorKind::Server("CLUSTERDOWN".to_owned())))
    }

    /// Sends the request to one node, for the rest of the time limit.
    async fn trip<R: RoutedRequest>(
        &self,
        node: &Arc<Node>,
        request: &Arc<R>,
        is_asking: bool,
        began: Instant,
    ) -> RedisResult<R::Reply> {
        let request = Arc::clone(request);
        let trip = async move {
            if is_asking {
                let client = Arc::clone(&node.client);
                let alone = async move {
                    let mut outcomes = client.deliver_to(&[request], true).await;
                    let lost = || Err(BackendError::new(BackendErrorKind::Lost));
                    outcomes.pop().unwrap_or_else(lost)
                };
                DetachedTrip::new(alone).await
            } else {
                Arc::clone(R::queue(node)).send(request).await
            }
        };
        // The node limits the first trip itself, and reports it.
        let spent = began.elapsed();
        let left = self.time_limit.saturating_sub(spent);
        if spent < FIRST {
            return trip.await;
        }
        timeout(left, trip).await.unwrap_or_else(|_| {
            let error = BackendError::new(BackendErrorKind::Timeout(self.time_limit));
            telemetry::backend_failure(error.kind().label());
            Err(error)
        })
    }
}

/// A trip that begins within this time may take a whole time limit.
const FIRST: Duration = Duration::from_millis(1);

/// A node and the keys that it has.
pub(in super::super) struct NodeKeys {
    topology: Arc<Topology>,
    node: Arc<Node>,
}

impl NodeKeys {
    /// Returns whether the node has this key.
    pub(in super::super) fn has(&self, key: &[u8]) -> bool {
        let owner = self.topology.owner(slot::of_key(key));
        owner.is_some_and(|owner| Arc::ptr_eq(&owner, &self.node))
    }
}

/// Shows the seeds.
impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seeds = self.topology.seeds.iter().map(ToString::to_string);
        f.debug_tuple("Cluster")
            .field(&seeds.collect::<Vec<_>>())
            .finish()
    }
}
