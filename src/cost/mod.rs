//! The cost of a request: one [`Cost`] for all requests, or a cost by route, header field or closure.
//!
//! Guide: [costs](crate::_guide::costs).
//!
//! | on a [`RateLimitLayer`](crate::RateLimitLayer) | the cost of a request |
//! |---|---|
//! | [`.cost(20)`][cost] | the same for all requests; 1 by default |
//! | `.cost(..)` with [`RouteCosts`] | from a table, by method and route |
//! | `.cost(..)` with a [`HeaderCost`] | the number in a header field, such as `content-length` |
//! | [`.cost_fn(\|head\| ..)`][cost_fn] | from a closure of the request's head |
//! | `.cost(..)` with [`try_cost_fn`] | from a closure that can reject the request |
//! | `.cost(..)` with a [`CostOf`] of your own | from the whole request, of any type |
//!
//! Each of them returns a number or a [`Cost`]. [`Cost::each`] has one number for each quota of the policy. A cost of 0
//! is free. A cost above the limit can never be allowed. A cost that must be awaited is
//! [computed by a layer in front](#costs-that-must-be-awaited).
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
//!
//! [cost]: crate::RateLimitLayer::cost
//! [cost_fn]: crate::RateLimitLayer::cost_fn
#![doc = include_str!("../docs/costs.md")]

mod error;
mod header;
mod into;
mod route;

use std::fmt;

use http::Request;

use crate::head::Head;
use crate::quota::Cost;

pub use self::error::CostError;
pub use self::header::HeaderCost;
pub use self::into::IntoCostOf;
pub use self::route::{RouteCosts, RouteCostsError};

/// Returns the cost of a request of type `R`. A [`Cost`] implements it: the same cost for all requests.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no cost for `{R}`",
    note = "for a closure: `.cost_fn(|head| ..)`, for a fixed cost: `.cost(5)`, by route: `.cost(RouteCosts::new()..)`"
)]
pub trait CostOf<R> {
    /// Returns the cost of `request`.
    fn cost(&self, request: &R) -> Cost;

    /// Returns the cost of `request`. Layers call this method. By default it calls [`cost`](Self::cost).
    ///
    /// # Errors
    ///
    /// If the cost is unknown and the layer must reject the request, with [`CostError::status`].
    #[inline]
    fn try_cost(&self, request: &R) -> Result<Cost, CostError> {
        Ok(self.cost(request))
    }
}

impl<R> CostOf<R> for Cost {
    fn cost(&self, _: &R) -> Cost {
        self.clone()
    }
}

/// A cost from a closure of the request's [`Head`], made by [`cost_fn`].
#[derive(Clone, Copy)]
pub struct CostFn<F>(F);

/// Makes a cost from a closure. The types of the closure are inferred.
///
/// ```
/// use http::Request;
/// use tower_sluice::Cost;
/// use tower_sluice::cost::{CostOf, cost_fn};
///
/// let cost = cost_fn(|head| if head.path() == "/search" { 5 } else { 1 });
/// assert_eq!(cost.cost(&Request::get("/search").body(())?), Cost::new(5));
/// # Ok::<(), http::Error>(())
/// ```
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

/// A cost from a closure that can reject a request, made by [`try_cost_fn`].
#[derive(Clone, Copy)]
pub struct TryCostFn<F>(F);

/// Makes a cost from a closure that can reject a request. The types of the closure are inferred.
///
/// ```
/// use http::Request;
/// use http::header::CONTENT_LENGTH;
/// use tower_sluice::Cost;
/// use tower_sluice::cost::{CostError, CostOf, HeaderCost, try_cost_fn};
///
/// let bytes = HeaderCost::required(CONTENT_LENGTH);
/// let cost = try_cost_fn(move |head| Ok(Cost::each([1, bytes.try_cost_for(head)?]))); // a request, and its bytes
/// let upload = Request::put("/").header(CONTENT_LENGTH, 500).body(())?;
/// assert_eq!(cost.try_cost(&upload), Ok(Cost::each([1, 500])));
/// assert_eq!(cost.try_cost(&Request::put("/").body(())?), Err(CostError::LengthRequired)); // status 411
/// # Ok::<(), http::Error>(())
/// ```
pub fn try_cost_fn<F, T>(f: F) -> TryCostFn<F>
where
    F: Fn(&Head<'_>) -> Result<T, CostError>,
    T: Into<Cost>,
{
    TryCostFn(f)
}

/// [`cost`](CostOf::cost) returns [`u64::MAX`] in place of an error, which no quota allows.
impl<B, F, T> CostOf<Request<B>> for TryCostFn<F>
where
    F: Fn(&Head<'_>) -> Result<T, CostError>,
    T: Into<Cost>,
{
    fn cost(&self, request: &Request<B>) -> Cost {
        self.try_cost(request).unwrap_or(Cost::new(u64::MAX))
    }

    fn try_cost(&self, request: &Request<B>) -> Result<Cost, CostError> {
        (self.0)(&Head::from(request)).map(Into::into)
    }
}

impl<F> fmt::Debug for TryCostFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TryCostFn(..)")
    }
}
