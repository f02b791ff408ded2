//! What a request spends: one [`Cost`] for all, or by its route, a header field, a closure.
//!
//! | on a [`RateLimitLayer`](crate::RateLimitLayer) | a request costs |
//! |---|---|
//! | [`.cost(20)`](crate::RateLimitLayer::cost) | the same as all others; 1 by default |
//! | [`.costs(..)`](crate::RateLimitLayer::costs) a [`RouteCosts`] | what a table says of its method and route |
//! | [`.with_cost(..)`](crate::RateLimitLayer::with_cost) a [`HeaderCost`] | the number in a header field, such as `content-length` |
//! | [`.cost_fn(\|head\| ..)`](crate::RateLimitLayer::cost_fn) | what a closure makes of its head, [awaited](#what-must-be-awaited) in front if need be |
//! | `.with_cost(..)` a [`CostOf`] of your own | what it makes of the whole request, of any type |
//!
//! Each says a number or a [`Cost`]: [`Cost::each`] has one for each quota of the policy, 0 is free. A cost above a
//! limit is denied for good.
//!
//! ```
//! use http::Request;
//! use tower_sluice::Cost;
//! use tower_sluice::cost::{CostOf, cost_fn};
//!
//! let by_method = cost_fn(|head| if head.method == "POST" { 5 } else { 1 });
//! assert_eq!(by_method.cost(&Request::post("/").body(())?), Cost::new(5));
//! assert_eq!(by_method.cost(&Request::get("/").body(())?), Cost::ONE);
//! # Ok::<(), http::Error>(())
//! ```
#![doc = include_str!("../docs/costs.md")]

mod header;
mod route;

use std::fmt;

use http::Request;

use crate::head::Head;
use crate::quota::Cost;

pub use self::header::HeaderCost;
pub use self::route::{RouteCosts, RouteCostsError};

/// Says what a request of type `R` costs. A [`Cost`] is one: the same for all.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot say what `{R}` costs",
    note = "for a closure: `.cost_fn(|head| ..)`, for a fixed cost: `.cost(5)`, by route: `.costs(RouteCosts::new()..)`"
)]
pub trait CostOf<R> {
    /// The cost of `request`.
    fn cost(&self, request: &R) -> Cost;
}

impl<R> CostOf<R> for Cost {
    fn cost(&self, _: &R) -> Cost {
        self.clone()
    }
}

/// A cost by a closure of the request's [`Head`]; see [`cost_fn`].
#[derive(Clone, Copy)]
pub struct CostFn<F>(F);

/// Makes a cost of a closure; its types need not be written.
pub fn cost_fn<F, T>(f: F) -> CostFn<F>
where
    F: Fn(&Head<'_>) -> T,
    T: Into<Cost>,
{
    CostFn(f)
}

impl<B, F, T> CostOf<Request<B>> for CostFn<F>
where
    F: Fn(&Head<'_>) -> T,
    T: Into<Cost>,
{
    fn cost(&self, request: &Request<B>) -> Cost {
        (self.0)(&Head::from(request)).into()
    }
}

impl<F> fmt::Debug for CostFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CostFn(..)")
    }
}
