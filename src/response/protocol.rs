use std::time::Duration;

use super::context::{AllowedContext, RejectedContext};
use super::rejection::Rejection;
use crate::budget::TimeBudget;
use crate::clock::Timestamp;
use crate::key::Key;
use crate::limiter::charge::Charge;
use crate::partition::PartitionKey;
use crate::wait::Deadline;

/// How a layer rejects requests and passes responses on.
///
/// [`Http`](super::Http) is the default, for HTTP services. [`AsError`](super::AsError) is for any other service.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot reject requests of type `{Req}`",
    label = "this service does not speak HTTP",
    note = "add `.protocol(AsError)`: rejections are then errors of the service"
)]
pub trait Protocol<Req, Res, Err>: Clone {
    /// The response of the limited service.
    type Response;
    /// The error of the limited service.
    type Error;
    /// The value that is kept from an allowed request to its response.
    type InFlight;

    /// Responds in place of the service.
    ///
    /// # Errors
    ///
    /// Returns an error if the protocol rejects with errors.
    fn reject(
        &self,
        request: &Req,
        rejected: RejectedContext<'_>,
    ) -> Result<Self::Response, Self::Error>;

    /// Passes an allowed request on.
    fn allow(&self, request: &mut Req, allowed: AllowedContext<'_>) -> Self::InFlight;

    /// Returns the keyed hash of `key` that the client receives, if any; see
    /// [`Http::partition_key`](super::Http::partition_key).
    fn partition_key(&self, key: &Key) -> Option<PartitionKey> {
        let _ = key;
        None
    }

    /// Sees a request before it is rejected, with its key if it has one. It cannot change the response.
    ///
    /// It also sees a request that a shadow policy allows although the limit denied it or its key is missing.
    fn observe_rejection(&self, request: &Req, key: Option<&Key>, rejection: &Rejection) {
        let _ = (request, key, rejection);
    }

    /// Returns the charge that an outer layer has left in the request.
    fn charge<'r>(&self, request: &'r Req) -> Option<&'r Charge> {
        let _ = request;
        None
    }

    /// Returns whether the request is exempt from the limit.
    fn is_exempt(&self, request: &Req) -> bool {
        let _ = request;
        false
    }

    /// Returns the time that the request may lose to failing backends. The first layer with a remote backend calls it
    /// with the time limit of that backend.
    fn time_budget(&self, request: &mut Req, limit: Duration) -> Option<TimeBudget> {
        let _ = (request, limit);
        None
    }

    /// Returns the client's deadline, if the request has one. The layer received the request at `now`.
    fn deadline(&self, request: &mut Req, now: Timestamp) -> Option<Deadline> {
        let _ = (request, now);
        None
    }

    /// Passes the service's response on. It is called once for a request, and `in_flight` is dropped afterwards.
    fn response(in_flight: &mut Self::InFlight, response: Res) -> Self::Response;

    /// Passes the service's error on.
    fn error(error: Err) -> Self::Error;
}
