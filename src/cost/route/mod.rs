mod error;
mod table;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use http::{Method, Request};

use self::table::{RouteCost, RoutePattern, RouteTable};
use super::CostOf;
use crate::head::Head;
use crate::quota::Cost;

pub use self::error::RouteCostsError;

/// A table of costs by method and route, for one layer around all routes. A request without an entry costs 1.
///
/// Guide: [costs](crate::_guide::costs).
///
/// ```
/// # use tower_sluice::{Global, MemoryBackend, Policy, Quota, RateLimitLayer, RouteCosts};
/// # use axum::{Router, routing::{get, post}};
/// use http::Method;
///
/// # let limit = RateLimitLayer::new(Policy::new("p", Quota::per_minute(600)), Global, MemoryBackend::new());
/// let costs = RouteCosts::new()
///     .route("/search", 5)
///     .method(Method::POST, "/search", 20)
///     .route("/export/{id}", 50)
///     .prefix("/assets", 0);
/// let app: Router = Router::new()
///     .route("/search", get(|| async { "found" }).post(|| async { "sought" }))
///     .route("/export/{id}", get(|| async { "all of it" }))
///     .layer(limit.cost(costs.clone()));
/// assert_eq!(costs.unmatched(), ["/search", "POST /search", "/export/{id}", "prefix /assets"]); // no request yet
/// ```
///
/// # Which entry counts
///
/// The table uses the first of these that it has:
///
/// 1. The template of the route that axum's router has matched (feature `axum`): `/export/{id}`.
/// 2. The path of the request: `/pkg.Service/Method`, or `/search` where no router has matched yet.
/// 3. The longest prefix of that path.
/// 4. [`otherwise`](Self::otherwise).
///
/// At one path, an entry for the method comes before an entry for any method. `HEAD` without an entry has the cost of
/// `GET`, because axum answers it by the same handler. An entry for other methods does not match. A template is known
/// in [some places](super#places-that-know-the-route) only.
///
/// # The path as sent
///
/// The table does not decode, resolve or change the path. In nested routers it is the whole path of the outermost
/// router, as the template is. Routers match the path as sent as well, so a prefix up to the mount of a service matches
/// all of its requests.
///
/// **A longer prefix may not match all requests of a service that normalizes paths itself.** Such a service may answer
/// `/files/%62ig`, `/files//big` or `/files/x/../big` with `/files/big`. List its mount, with the cost of its most
/// expensive part. A layer that rewrites paths must be in front of the limit and of all routers.
///
/// # Performance
///
/// Clones share the table and its marks of [matched](Self::unmatched) entries. A lookup allocates nothing. It hashes
/// the template, then the path if the template is not listed, then compares the prefixes.
#[derive(Clone, Default)]
#[must_use = "a table has no effect until a layer uses it: `.cost(table)`"]
pub struct RouteCosts(Arc<RouteTable>);

impl RouteCosts {
    /// Creates an empty table: each request costs 1.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the cost of requests without an entry; 1 by default.
    pub fn otherwise(mut self, cost: impl Into<Cost>) -> Self {
        Arc::make_mut(&mut self.0).otherwise = cost.into();
        self
    }

    /// Sets the cost of `path` for any method. `path` is the template of a route or a whole path. A cost of 0 is free.
    ///
    /// ```
    /// use http::Request;
    /// use tower_sluice::cost::CostOf;
    /// use tower_sluice::{Cost, RouteCosts};
    ///
    /// let costs = RouteCosts::new().route("/search", 5);
    /// assert_eq!(costs.cost(&Request::get("/search").body(())?), Cost::new(5));
    /// assert_eq!(costs.cost(&Request::get("/").body(())?), Cost::ONE);
    /// # Ok::<(), http::Error>(())
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if [`try_route`](Self::try_route) would return an error.
    pub fn route(self, path: &str, cost: impl Into<Cost>) -> Self {
        or_panic(self.try_route(path, cost))
    }

    /// Sets the cost of `path` for any method. `path` is the template of a route or a whole path. A cost of 0 is free.
    ///
    /// # Errors
    ///
    /// Returns an error if `path` does not begin with `/`, has a query or fragment, or has an entry for any method.
    pub fn try_route(self, path: &str, cost: impl Into<Cost>) -> Result<Self, RouteCostsError> {
        self.and(RoutePattern::Route(None), path, cost.into())
    }

    /// Sets the cost of `path` for one method. [`route`](Self::route) sets the cost of the others.
    ///
    /// ```
    /// use http::{Method, Request};
    /// use tower_sluice::cost::CostOf;
    /// use tower_sluice::{Cost, RouteCosts};
    ///
    /// let costs = RouteCosts::new().method(Method::POST, "/users", 10);
    /// assert_eq!(costs.cost(&Request::post("/users").body(())?), Cost::new(10));
    /// assert_eq!(costs.cost(&Request::get("/users").body(())?), Cost::ONE);
    /// # Ok::<(), http::Error>(())
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if [`try_method`](Self::try_method) would return an error.
    pub fn method(self, method: Method, path: &str, cost: impl Into<Cost>) -> Self {
        or_panic(self.try_method(method, path, cost))
    }

    /// Sets the cost of `path` for one method. [`route`](Self::route) sets the cost of the others.
    ///
    /// # Errors
    ///
    /// Returns an error if `path` does not begin with `/`, has a query or fragment, or has an entry for this method.
    pub fn try_method(
        self,
        method: Method,
        path: &str,
        cost: impl Into<Cost>,
    ) -> Result<Self, RouteCostsError> {
        self.and(RoutePattern::Route(Some(method)), path, cost.into())
    }

    /// Sets the cost of `path` and of all paths below it that have no entry, for any method.
    ///
    /// | prefix | matches |
    /// |---|---|
    /// | `/files` | `/files` and `/files/x`, not `/filesystem` |
    /// | `/files/` | paths below it only |
    /// | `/pkg.Service` | all methods of a gRPC service |
    /// | `/` | all paths |
    ///
    /// The longest matching prefix applies. It is compared with the path [as sent](Self#the-path-as-sent).
    ///
    /// ```
    /// use http::Request;
    /// use tower_sluice::cost::CostOf;
    /// use tower_sluice::{Cost, RouteCosts};
    ///
    /// let costs = RouteCosts::new().prefix("/assets", 0);
    /// assert_eq!(costs.cost(&Request::get("/assets/logo.svg").body(())?), Cost::new(0));
    /// # Ok::<(), http::Error>(())
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if [`try_prefix`](Self::try_prefix) would return an error.
    pub fn prefix(self, path: &str, cost: impl Into<Cost>) -> Self {
        or_panic(self.try_prefix(path, cost))
    }

    /// Sets the cost of `path` and of all paths below it that have no entry; see [`prefix`](Self::prefix).
    ///
    /// # Errors
    ///
    /// Returns an error if `path` does not begin with `/`, has a query or fragment, contains `{`, `}` or `*`, or is in
    /// the table already.
    pub fn try_prefix(self, path: &str, cost: impl Into<Cost>) -> Result<Self, RouteCostsError> {
        self.and(RoutePattern::Prefix, path, cost.into())
    }

    /// Returns the cost of a request with this head. Closures can build their own cost from it:
    ///
    /// ```
    /// # use tower_sluice::{Cost, Global, MemoryBackend, Policy, Quota, RateLimitLayer, RouteCosts};
    /// # let limit = RateLimitLayer::new(Policy::new("p", Quota::per_minute(600)), Global, MemoryBackend::new());
    /// let costs = RouteCosts::new().route("/search", 5);
    /// let limit = limit.cost_fn(move |head| {
    ///     if head.headers.contains_key("x-internal") { Cost::ZERO } else { costs.cost_for(head) }
    /// });
    /// # let _: axum::Router = axum::Router::new().layer(limit);
    /// ```
    #[must_use]
    pub fn cost_for(&self, head: &Head<'_>) -> Cost {
        match self.0.find(head) {
            Some(entry) => {
                entry.mark();
                entry.cost.clone()
            }
            None => self.0.otherwise.clone(),
        }
    }

    /// Returns the entries that no request has matched so far, through this table or a clone of it. They are in order
    /// of declaration, in the form `/export/{id}`, `POST /serach` or `prefix /assets`.
    ///
    /// An entry that never matches is misspelt, hidden by another entry, or a template in a place without templates.
    /// Call this at the end of a test of all routes, or after a busy day.
    #[must_use]
    pub fn unmatched(&self) -> Vec<String> {
        let unmatched = self.0.entries.iter().filter(|entry| !entry.is_matched());
        unmatched.map(|entry| entry.to_string()).collect()
    }

    fn and(
        mut self,
        pattern: RoutePattern,
        path: &str,
        cost: Cost,
    ) -> Result<Self, RouteCostsError> {
        if !path.starts_with('/') || path.contains(['?', '#']) {
            return Err(RouteCostsError::Path(path.to_owned()));
        }
        let is_prefix = pattern == RoutePattern::Prefix;
        if is_prefix && path.contains(['{', '}', '*']) {
            return Err(RouteCostsError::Prefix(path.to_owned()));
        }
        let entry = Arc::new(RouteCost {
            pattern,
            path: path.into(),
            cost,
            matched: AtomicBool::new(false),
        });
        let same =
            |other: &Arc<RouteCost>| other.pattern == entry.pattern && other.path == entry.path;
        if self.0.entries.iter().any(same) {
            return Err(RouteCostsError::Duplicate(entry.to_string()));
        }
        let table = Arc::make_mut(&mut self.0);
        table.entries.push(Arc::clone(&entry));
        if is_prefix {
            let longer = |other: &Arc<RouteCost>| other.path.len() > path.len();
            let index = table.prefixes.partition_point(longer);
            table.prefixes.insert(index, entry);
        } else {
            table.routes.entry(path.into()).or_default().push(entry);
        }
        Ok(self)
    }
}

impl<B> CostOf<Request<B>> for RouteCosts {
    fn cost(&self, request: &Request<B>) -> Cost {
        self.cost_for(&Head::from(request))
    }
}

/// `{POST /search: RouteCost { cost: Cost(5), matched: false }, otherwise: Cost(1)}`
impl fmt::Debug for RouteCosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for entry in &self.0.entries {
            map.entry(&format_args!("{entry}"), entry);
        }
        map.entry(&format_args!("otherwise"), &self.0.otherwise)
            .finish()
    }
}

fn or_panic(made: Result<RouteCosts, RouteCostsError>) -> RouteCosts {
    match made {
        Ok(costs) => costs,
        Err(error) => panic!("{error}"),
    }
}

#[cfg(test)]
mod tests;
