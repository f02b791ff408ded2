use std::fmt;

use http::response::Parts;

use crate::limiter::charge::Charge;

/// Sees the head of a response together with what its request was charged.
pub trait ResponseHook: Clone {
    /// Whether there is anything to be called.
    const IS_CALLED: bool = true;

    /// What is kept of a request until it is answered.
    type Kept: Default;

    /// Keeps what a request was charged.
    fn keep(&self, charge: Charge) -> Self::Kept;

    /// Is called once for each response, before the rate-limit fields are written.
    fn call(kept: Self::Kept, parts: &Parts);
}

/// Nothing is done about responses, the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHook;

impl ResponseHook for NoHook {
    const IS_CALLED: bool = false;

    type Kept = ();

    fn keep(&self, _: Charge) {}

    fn call((): (), _: &Parts) {}
}

/// What a closure does; see [`on_response`](crate::RateLimitLayer::on_response).
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

impl<F> fmt::Debug for OnResponse<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnResponse(..)")
    }
}
