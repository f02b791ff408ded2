use std::fmt;

use http::StatusCode;
use http::response::Parts;

use crate::limiter::charge::Charge;

/// Sees the head of each response and the charge of its request.
pub trait ResponseHook: Clone {
    /// Whether the hook does anything.
    const IS_CALLED: bool = true;

    /// The value that is kept from the request to its response.
    type Kept: Default;

    /// Keeps the charge of a request.
    fn keep(&self, charge: Charge) -> Self::Kept;

    /// Runs once for each response, before the rate-limit fields are written.
    fn call(kept: Self::Kept, parts: &Parts);
}

/// The default: no hook.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHook;

impl ResponseHook for NoHook {
    const IS_CALLED: bool = false;

    type Kept = ();

    fn keep(&self, _: Charge) {}

    fn call((): (), _: &Parts) {}
}

/// A hook from a closure; see [`on_response`](super::Http::on_response).
#[derive(Clone, Copy)]
pub struct OnResponse<F>(pub(crate) F);

impl<F: Fn(&Parts, &Charge) + Clone> ResponseHook for OnResponse<F> {
    type Kept = Option<(Self, Charge)>;

    fn keep(&self, charge: Charge) -> Self::Kept {
        Some((self.clone(), charge))
    }

    fn call(kept: Self::Kept, parts: &Parts) {
        if let Some((hook, charge)) = kept {
            (hook.0)(parts, &charge);
        }
    }
}

/// Refunds by status; see [`refund_on_status`](super::Http::refund_on_status).
#[derive(Clone, Copy)]
pub struct RefundOnStatus<F>(pub(crate) F);

impl<F: Fn(StatusCode) -> bool + Clone> ResponseHook for RefundOnStatus<F> {
    type Kept = Option<(Self, Charge)>;

    fn keep(&self, charge: Charge) -> Self::Kept {
        Some((self.clone(), charge))
    }

    fn call(kept: Self::Kept, parts: &Parts) {
        if let Some((hook, charge)) = kept
            && (hook.0)(parts.status)
        {
            drop(charge.cancel());
        }
    }
}

impl<F> fmt::Debug for RefundOnStatus<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RefundOnStatus(..)")
    }
}

impl<F> fmt::Debug for OnResponse<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnResponse(..)")
    }
}
