use super::context::{AllowedContext, RejectedContext};
use crate::clock::Timestamp;
use crate::limiter::charge::Charge;
use crate::wait::Deadline;

/// How a service is answered for: what rejects a request, and what an answer takes with it.
///
/// [`Http`] is for HTTP services and the default; [`AsError`] for any other.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot reject requests of type `{Req}`",
    label = "this service does not speak HTTP",
    note = "add `.protocol(AsError)`: rejections are then errors of the service"
)]
pub trait Protocol<Req, Res, Err>: Clone {
    /// What the limited service answers.
    type Response;
    /// The limited service's error.
    type Error;
    /// What is kept of a request that goes on until it is answered.
    type InFlight;

    /// Answers in place of the service.
    ///
    /// # Errors
    ///
    /// If a rejection is an error in this protocol.
    fn reject(
        &self,
        request: &Req,
        rejected: RejectedContext<'_>,
    ) -> Result<Self::Response, Self::Error>;

    /// Sees a request that goes on, and what it was granted.
    fn allow(&self, request: &mut Req, allowed: AllowedContext<'_>) -> Self::InFlight;

    /// The charge that a layer around this one has left in a request.
    fn charge<'r>(&self, request: &'r Req) -> Option<&'r Charge> {
        let _ = request;
        None
    }

    /// Whether the request goes on uncounted, whosever it is.
    fn is_exempt(&self, request: &Req) -> bool {
        let _ = request;
        false
    }

    /// By when the client of a request that is seen at `now` will have gone, if the request says so.
    fn deadline(&self, request: &mut Req, now: Timestamp) -> Option<Deadline> {
        let _ = (request, now);
        None
    }

    /// Passes the service's answer on.
    fn response(pass: Self::InFlight, response: Res) -> Self::Response;

    /// Passes the service's error on.
    fn error(error: Err) -> Self::Error;
}
