//! The steps that the services of [`limit`](crate::limit) and [`concurrency`](crate::concurrency) share.

use std::mem;
use std::task::{Context, Poll};

use tower_service::Service;

use crate::backend::BackendContext;
use crate::key::{Key, KeyError, KeyExtractor};
use crate::partition::PartitionKey;
use crate::response::{Protocol, RejectedContext, Rejection};
use crate::telemetry;
use crate::wait::{Bound, MaxWait};

/// The panic message for a future that is polled after it has completed.
pub(crate) const DONE: &str = "`ResponseFuture` polled after completion";

/// The result of a limited service.
pub(crate) type Output<S, Req, R> = Result<
    <R as Protocol<Req, <S as Service<Req>>::Response, <S as Service<Req>>::Error>>::Response,
    <R as Protocol<Req, <S as Service<Req>>::Response, <S as Service<Req>>::Error>>::Error,
>;

/// Returns the key of a request, or `None` if the request is not limited.
///
/// # Errors
///
/// If the request has no key and must be rejected.
#[inline(always)] // a call would move the key once more
pub(crate) fn limited_key<K, Req>(
    extractor: &K,
    request: &Req,
    is_exempt: bool,
    skip_unkeyed: bool,
) -> Result<Option<Key>, KeyError>
where
    K: KeyExtractor<Req>,
{
    match extractor.key(request) {
        Ok(key) if !is_exempt => Ok(Some(key)),
        extracted => pass_unlimited(extracted, is_exempt, skip_unkeyed).map(|()| None),
    }
}

/// Passes a request that is exempt from the limit, or that has no key.
///
/// # Errors
///
/// If the request has no key and must be rejected.
pub(crate) fn pass_unlimited(
    extracted: Result<Key, KeyError>,
    is_exempt: bool,
    skip_unkeyed: bool,
) -> Result<(), KeyError> {
    match extracted {
        Ok(_) => Ok(()),
        Err(error) if error.skips_limit(skip_unkeyed || is_exempt) => {
            telemetry::unkeyed(&error, error.server_fault());
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Reports a rejection, and expresses it in the protocol of the service.
pub(crate) fn reject<R, Req, Res, Err>(
    protocol: &R,
    request: &Req,
    key: Option<&Key>,
    rejection: Rejection,
    partition_key: Option<PartitionKey>,
    context: &BackendContext,
) -> Result<R::Response, R::Error>
where
    R: Protocol<Req, Res, Err>,
{
    rejection.report();
    protocol.observe_rejection(request, key, &rejection);
    let rejected = RejectedContext {
        rejection,
        partition_key,
        context,
    };
    protocol.reject(request, rejected)
}

/// Returns how long a request may wait from now on.
pub(crate) fn bound<R, Req, Res, Err>(
    protocol: &R,
    request: &mut Req,
    max_wait: MaxWait,
    context: &BackendContext,
) -> Bound
where
    R: Protocol<Req, Res, Err>,
{
    let began = context.now();
    Bound {
        began,
        max_wait,
        end: protocol.deadline(request, began),
    }
}

/// The inner service of a pending request, and whether it is still ready.
pub(crate) struct ReservedService<S> {
    service: S,
    is_ready: bool,
}

impl<S: Clone> ReservedService<S> {
    /// Takes the service that `poll_ready` has made ready. A clone stays in its place, and is not ready.
    pub(crate) fn take(inner: &mut S) -> Self {
        let clone = inner.clone();
        Self {
            service: mem::replace(inner, clone),
            is_ready: true,
        }
    }

    /// Releases the readiness, such as a slot of an inner `ConcurrencyLimit`: a clone is not ready.
    pub(crate) fn release(&mut self) {
        if self.is_ready {
            self.service = self.service.clone();
            self.is_ready = false;
        }
    }
}

impl<S> ReservedService<S> {
    pub(crate) const fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// Polls the service after its readiness was released.
    pub(crate) fn poll_ready<Req>(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>>
    where
        S: Service<Req>,
    {
        self.service.poll_ready(cx)
    }

    /// Returns the service. It must be ready to be called.
    pub(crate) fn into_inner(self) -> S {
        self.service
    }
}
