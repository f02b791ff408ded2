use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::super::{Answer, Backend, BackendContext, BackendError, BackendErrorKind};
use super::atomicity::Atomicity;
use super::batch_queue::BatchQueue;
#[cfg(feature = "cluster")]
use super::breaker::Breaker;
#[cfg(feature = "cluster")]
use super::cluster::{self, Router};
use super::detached_trip::DetachedTrip;
use super::error::ConnectTimeout;
use super::permit_request::PermitRequest;
use super::request::OpRequest;
use super::request_preparer::RequestPreparer;
use super::round_trip::RedisResult;
use super::source::ConnectionSource;
use super::{optimistic, probe};
use crate::decision::{Op, Reply};
use crate::key::Key;
use crate::policy::Policy;

/// Keeps the state of limits in Redis, for all processes that use the same prefix and policy names.
///
/// Clones share everything. The operations need a Tokio runtime with I/O and time.
///
/// Guide: [share limits in a fleet](crate::_guide::fleet).
#[derive(Clone)]
pub struct RedisBackend(pub(super) Arc<RedisInner>);

pub(super) struct RedisInner {
    pub(super) preparer: RequestPreparer,
    pub(super) route: Route,
    pub(super) atomicity: Atomicity,
}

/// The route of a request to its server.
pub(super) enum Route {
    /// One server has all keys.
    Single {
        queue: Arc<BatchQueue<OpRequest>>,
        /// Operations on permits, which have a script of their own.
        permit_queue: Arc<BatchQueue<PermitRequest>>,
    },
    /// Each key has a node.
    #[cfg(feature = "cluster")]
    Cluster(Arc<Router>),
}

impl Route {
    /// Returns the longest time of an operation.
    pub(super) fn time_limit(&self) -> Duration {
        match self {
            Self::Single { queue, .. } => queue.client().time_limit,
            #[cfg(feature = "cluster")]
            Self::Cluster(router) => router.time_limit(),
        }
    }

    /// Returns the queue of the only server.
    #[cfg(any(test, feature = "sentinel"))]
    pub(super) fn queue(&self) -> Option<&Arc<BatchQueue<OpRequest>>> {
        match self {
            Self::Single { queue, .. } => Some(queue),
            #[cfg(feature = "cluster")]
            Self::Cluster(_) => None,
        }
    }
}

impl RedisBackend {
    /// Checks within `patience` that there is a connection and that it answers.
    pub(super) async fn ready_within(&self, patience: Duration) -> Result<(), BackendError> {
        let ready = tokio::time::timeout(patience, self.0.first_connection()).await;
        let ready = ready.unwrap_or_else(|_| {
            let cause = ConnectTimeout(patience);
            Err(BackendError::because(BackendErrorKind::Unreachable, cause))
        });
        if let Err(error) = &ready {
            match &self.0.route {
                Route::Single { queue, .. } => queue.client().alert(error),
                #[cfg(feature = "cluster")]
                Route::Cluster(router) => router.alerts.failed(error, true),
            }
        }
        ready
    }
}

impl Backend for RedisBackend {
    type Error = BackendError;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, BackendError>> + Send>>;

    fn ask(&self, op: Op, policy: &Policy, key: &Key) -> Answer<RedisResult, Self::Future> {
        self.ask_for(op, policy, key, self.0.route.time_limit())
    }

    fn context(&self) -> &BackendContext {
        &self.0.preparer.context
    }

    fn needs_one_hash_tag(&self) -> bool {
        match &self.0.route {
            Route::Single { .. } => false,
            #[cfg(feature = "cluster")]
            Route::Cluster(_) => true,
        }
    }

    fn time_limit(&self) -> Option<Duration> {
        Some(self.0.route.time_limit())
    }

    fn ask_within(
        &self,
        op: Op,
        policy: &Policy,
        key: &Key,
        limit: Duration,
    ) -> Answer<RedisResult, Self::Future> {
        self.ask_for(op, policy, key, limit)
    }
}

impl RedisBackend {
    fn ask_for(
        &self,
        op: Op,
        policy: &Policy,
        key: &Key,
        limit: Duration,
    ) -> Answer<RedisResult, <Self as Backend>::Future> {
        let inner = &self.0;
        if policy.has_scopes() && !policy.is_by_outermost() && self.needs_one_hash_tag() {
            return Answer::Now(Err(BackendError::config(NEEDS_HASH_TAG)));
        }
        let query = match inner.preparer.cached_denial(&op, policy, key) {
            Ok(denial) => return Answer::Now(Ok(denial)),
            Err(query) => query,
        };
        let is_open = || Answer::Now(Err(BackendError::new(BackendErrorKind::CircuitOpen)));
        if let Route::Single { queue, .. } = &inner.route
            && queue.client().breaker.rejects()
        {
            return is_open();
        }
        if limit.is_zero() {
            return Answer::Now(Err(BackendError::new(BackendErrorKind::OutOfTime)));
        }
        let (request, update) = inner.preparer.request(op, policy, key, query);
        #[cfg(feature = "cluster")]
        if let Route::Cluster(router) = &inner.route
            && router.is_open_for(&request, Breaker::rejects)
        {
            return is_open();
        }
        let inner = Arc::clone(inner);
        Answer::Later(Box::pin(async move {
            inner.preparer.forget(&update);
            let outcome = within(limit, inner.route.time_limit(), inner.send(request)).await;
            inner.preparer.record(&update, &outcome);
            outcome
        }))
    }
}

/// Waits for an answer for at most `limit`, if that is shorter than the time limit that applies anyway. A round trip
/// that takes longer completes in the background.
pub(super) async fn within<T>(
    limit: Duration,
    usual: Duration,
    answer: impl Future<Output = RedisResult<T>>,
) -> RedisResult<T> {
    if limit >= usual {
        return answer.await;
    }
    match tokio::time::timeout(limit, answer).await {
        Ok(outcome) => outcome,
        Err(_) => Err(BackendError::new(BackendErrorKind::Timeout(limit))),
    }
}

const NEEDS_HASH_TAG: &str =
    "the keys of several scopes are in several slots of the Redis Cluster; use `hash_by_outermost`";

impl RedisInner {
    async fn send(&self, request: OpRequest) -> RedisResult {
        let queue = match &self.route {
            Route::Single { queue, .. } => queue,
            #[cfg(feature = "cluster")]
            Route::Cluster(router) => return router.decide(request).await,
        };
        match self.atomicity {
            Atomicity::Script => Arc::clone(queue).send(request).await,
            Atomicity::Optimistic => {
                let client = Arc::clone(queue.client());
                DetachedTrip::new(async move { optimistic::deliver(&client, &request).await }).await
            }
        }
    }

    /// Checks that there is a connection and that it answers.
    async fn first_connection(&self) -> Result<(), BackendError> {
        let client = match &self.route {
            Route::Single { queue, .. } => queue.client(),
            #[cfg(feature = "cluster")]
            Route::Cluster(router) => {
                return cluster::probe(router, &self.preparer.naming).await;
            }
        };
        match &client.source {
            ConnectionSource::Pool(connections) => connections.first().await?,
            ConnectionSource::Shared(..) => {}
        }
        probe::run(client, &self.preparer.naming, self.atomicity).await
    }
}

/// Shows neither a key nor a password.
impl fmt::Debug for RedisBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source: &dyn fmt::Debug = match &self.0.route {
            Route::Single { queue, .. } => &queue.client().source,
            #[cfg(feature = "cluster")]
            Route::Cluster(router) => router,
        };
        f.debug_struct("RedisBackend")
            .field("naming", &self.0.preparer.naming)
            .field("source", source)
            .field("atomicity", &self.0.atomicity)
            .finish_non_exhaustive()
    }
}
