use super::{CostFn, HeaderCost, RouteCosts, TryCostFn};
use crate::quota::Cost;

/// A value that a layer accepts as a cost: a number, a [`Cost`], or what implements [`CostOf`](super::CostOf).
///
/// The trait fixes the type of a literal, so that `.cost(5)` needs no suffix. Implement it for a `CostOf` of your own:
///
/// ```
/// use http::Request;
/// use tower_sluice::cost::{CostOf, IntoCostOf};
/// use tower_sluice::{Cost, Global, MemoryBackend, Policy, Quota, RateLimitLayer};
///
/// #[derive(Clone)]
/// struct ByPathLength;
///
/// impl<B> CostOf<Request<B>> for ByPathLength {
///     fn cost(&self, request: &Request<B>) -> Cost {
///         Cost::new(request.uri().path().len() as u64)
///     }
/// }
///
/// impl IntoCostOf for ByPathLength {
///     type CostOf = Self;
///
///     fn into_cost_of(self) -> Self {
///         self
///     }
/// }
///
/// let limit = RateLimitLayer::new(Policy::new("paths", Quota::per_second(100)), Global, MemoryBackend::new());
/// # let _: axum::Router = axum::Router::new().layer(limit.cost(ByPathLength));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no cost",
    note = "use a number (`u64`), a `Cost`, `RouteCosts` or a `HeaderCost`; for a closure: `.cost_fn(|head| ..)` or `try_cost_fn(..)`",
    note = "for a `CostOf` of your own: implement `IntoCostOf`, too"
)]
pub trait IntoCostOf {
    /// The [`CostOf`](super::CostOf) that the layer keeps.
    type CostOf;

    /// Converts the value.
    fn into_cost_of(self) -> Self::CostOf;
}

/// The same number of tokens for each request.
impl IntoCostOf for u64 {
    type CostOf = Cost;

    fn into_cost_of(self) -> Cost {
        Cost::new(self)
    }
}

macro_rules! into_itself {
    ($([$($parameter:ident)?] $kind:ty;)+) => {$(
        impl<$($parameter)?> IntoCostOf for $kind {
            type CostOf = Self;

            fn into_cost_of(self) -> Self {
                self
            }
        }
    )+};
}

into_itself! {
    [] Cost;
    [] RouteCosts;
    [] HeaderCost;
    [F] CostFn<F>;
    [F] TryCostFn<F>;
}
