//! Requests that are rejected, or pass uncounted, for want of a key or of a cost.

use tower_service::Service;

use super::admission::{Admission, Admitted, CheckRequest, SharedLayer};
use super::future::ResponseFuture;
use super::pending::RequestState;
use super::{PolicyOf, RateLimit};
use crate::backend::Backend;
use crate::cost::CostError;
use crate::key::{Key, KeyError};
use crate::limiter::HandleFailure;
use crate::middleware;
use crate::partition::PartitionKey;
use crate::policy::Policy;
use crate::quota::Cost;
use crate::response::{Protocol, Rejection};

impl<S, K, B, C, F, R, P> RateLimit<S, K, B, C, F, R, P>
where
    B: Backend,
    F: HandleFailure<B::Error>,
{
    /// Continues with a request that is exempt from the limit or has no key.
    #[inline(never)]
    pub(super) fn call_without_key<Req>(
        &mut self,
        request: Req,
        extracted: Result<Key, KeyError>,
    ) -> ResponseFuture<S, Req, K, B, C, F, R, P>
    where
        S: Service<Req> + Clone,
        R: Protocol<Req, S::Response, S::Error>,
        P: PolicyOf<Req>,
    {
        let layer = &self.shared.layer;
        let is_exempt = layer.protocol.is_exempt(&request);
        let passed = middleware::pass_unlimited(extracted, is_exempt, layer.skip_unkeyed);
        let Err(error) = passed else {
            return self.skip(request);
        };
        let is_shadow = layer.policy.fixed().is_some_and(Policy::is_shadow);
        let passes = is_shadow && error != KeyError::Denied;
        let rejection = Rejection::NoKey(error);
        if !passes {
            return self.reject(&request, None, rejection, None);
        }
        rejection.report();
        layer.protocol.observe_rejection(&request, None, &rejection);
        self.skip(request)
    }

    /// Continues with a request whose cost is unknown.
    #[inline(never)]
    pub(super) fn call_without_cost<Req>(
        &mut self,
        request: Req,
        policy: Policy,
        key: Key,
        error: CostError,
    ) -> ResponseFuture<S, Req, K, B, C, F, R, P>
    where
        S: Service<Req> + Clone,
        R: Protocol<Req, S::Response, S::Error>,
    {
        let (shared, rejection) = (&self.shared, Rejection::NoCost(error));
        let protocol = &shared.layer.protocol;
        if policy.is_shadow() {
            rejection.report();
            protocol.observe_rejection(&request, Some(&key), &rejection);
            return self.skip(request);
        }
        let partition_key = protocol.partition_key(&key);
        let mut check = CheckRequest::new(key, Cost::ZERO, partition_key, None);
        if let Some(outer) = protocol.charge(&request) {
            shared.find(outer, &policy, &mut check);
        }
        self.proceed(request, policy, check, Admission::Reject(rejection))
    }
}

impl<S: Clone, K, B, C, F, R, P> RateLimit<S, K, B, C, F, R, P> {
    /// Rejects a request.
    pub(super) fn reject<Req>(
        &mut self,
        request: &Req,
        key: Option<&Key>,
        rejection: Rejection,
        partition_key: Option<PartitionKey>,
    ) -> ResponseFuture<S, Req, K, B, C, F, R, P>
    where
        S: Service<Req>,
        B: Backend,
        R: Protocol<Req, S::Response, S::Error>,
    {
        // A clone is not ready: this releases the slot of an inner `ConcurrencyLimit` or `Buffer` at once.
        self.inner = self.inner.clone();
        let layer = &self.shared.layer;
        let context = layer.backend.context();
        let result = middleware::reject(
            &layer.protocol,
            request,
            key,
            rejection,
            partition_key,
            context,
        );
        let result = Some(result);
        ResponseFuture::new(RequestState::Done { result })
    }
}

impl<K, B, C, F, R, P> SharedLayer<K, B, C, F, R, P> {
    /// Shows the protocol a request that continues although a shadow policy denied it.
    #[inline]
    pub(super) fn observe_shadow<S, Req>(
        &self,
        request: &Req,
        policy: &Policy,
        check: &CheckRequest,
        admitted: &Admitted,
    ) where
        S: Service<Req>,
        R: Protocol<Req, S::Response, S::Error>,
    {
        if policy.is_shadow()
            && let Some(decision) = &admitted.decision
            && !decision.is_allowed()
        {
            let rejection = Rejection::Limited {
                policy: policy.clone(),
                decision: decision.clone(),
                joined: admitted.joined,
            };
            let protocol = &self.layer.protocol;
            protocol.observe_rejection(request, Some(&check.key), &rejection);
        }
    }
}
