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

/// A table of costs by method and route, for one layer around all of them: what is not in it costs 1.
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
///     .layer(limit.costs(costs.clone()));
/// assert_eq!(costs.unmatched(), ["/search", "POST /search", "/export/{id}", "prefix /assets"]); // no request yet
/// ```
///
/// # Which entry counts
///
/// The first of these that is listed:
///
/// 1. the template of the route as axum's router has matched it (feature `axum`): `/export/{id}`;
/// 2. the path of the request: `/pkg.Service/Method`, or `/search` where no router has matched anything yet;
/// 3. the longest prefix of that path;
/// 4. [`otherwise`](Self::otherwise).
///
/// At one path, the entry of a method comes before that of any method. `HEAD` without an entry of its own costs what
/// `GET` does, which is how axum answers it: asking for the head is no cheap way in. A path that is listed for other
/// methods only is not listed for this one. The [module](super#which-places-know-the-route) says in which places there
/// is a template.
///
/// # The path is taken as sent
///
/// Nothing is decoded, resolved or changed in case, and in nested routers it is the whole path as the outermost router
/// got it, as the template is. Routers match paths as sent, too: a prefix up to where a service is mounted sees all of
/// its requests. **A prefix that reaches into a service which reads paths in its own way does not**: `/files/%62ig`,
/// `/files//big` or `/files/x/../big` may be served as `/files/big`. List such a service by its mount, at the cost of
/// the dearest part of it. A layer that rewrites paths belongs in front of the limit and of all routers.
///
/// # What it costs
///
/// Clones share the table, and their marks of what has been [matched](Self::unmatched). A lookup allocates nothing; it
/// hashes the template, and if that is not listed the path, and goes through the prefixes.
#[derive(Clone, Default)]
#[must_use = "a table charges nothing until a layer has it: `.costs(table)`"]
pub struct RouteCosts(Arc<RouteTable>);

impl RouteCosts {
    /// A table without entries: everything costs 1.
    pub fn new() -> Self {
        Self::default()
    }

    /// What a request costs that is not listed; 1 by default.
    pub fn otherwise(mut self, cost: impl Into<Cost>) -> Self {
        Arc::make_mut(&mut self.0).otherwise = cost.into();
        self
    }

    /// Any method at `path`, the template of a route or a whole path, costs `cost`; 0 is free.
    ///
    /// # Panics
    ///
    /// Where [`try_route`](Self::try_route) errs, with the same sentence.
    pub fn route(self, path: &str, cost: impl Into<Cost>) -> Self {
        must(self.try_route(path, cost))
    }

    /// Any method at `path`, the template of a route or a whole path, costs `cost`; 0 is free.
    ///
    /// # Errors
    ///
    /// If `path` does not begin with `/`, has a query or fragment, or is listed for any method already.
    pub fn try_route(self, path: &str, cost: impl Into<Cost>) -> Result<Self, RouteCostsError> {
        self.and(RoutePattern::Route(None), path, cost.into())
    }

    /// One method at `path` costs `cost`, and others what [`route`](Self::route) says of it.
    ///
    /// # Panics
    ///
    /// Where [`try_method`](Self::try_method) errs, with the same sentence.
    pub fn method(self, method: Method, path: &str, cost: impl Into<Cost>) -> Self {
        must(self.try_method(method, path, cost))
    }

    /// One method at `path` costs `cost`, and others what [`route`](Self::route) says of it.
    ///
    /// # Errors
    ///
    /// If `path` does not begin with `/`, has a query or fragment, or is listed for this method already.
    pub fn try_method(
        self,
        method: Method,
        path: &str,
        cost: impl Into<Cost>,
    ) -> Result<Self, RouteCostsError> {
        self.and(RoutePattern::Route(Some(method)), path, cost.into())
    }

    /// What is at `path` or below it, and not listed by itself, costs `cost`, by any method: `/files` holds for
    /// `/files` and `/files/x`, not for `/filesystem`; `/files/` for what is below it only, `/` for all; `/pkg.Service`
    /// for all methods of a gRPC service. Of several prefixes the longest holds.
    ///
    /// It is compared with the path [as sent](Self#the-path-is-taken-as-sent).
    ///
    /// # Panics
    ///
    /// Where [`try_prefix`](Self::try_prefix) errs, with the same sentence.
    pub fn prefix(self, path: &str, cost: impl Into<Cost>) -> Self {
        must(self.try_prefix(path, cost))
    }

    /// What is at `path` or below it, and not listed by itself, costs `cost`: see [`prefix`](Self::prefix).
    ///
    /// # Errors
    ///
    /// If `path` does not begin with `/`, has a query or fragment, has one of `{ } *`, or is listed as a prefix
    /// already.
    pub fn try_prefix(self, path: &str, cost: impl Into<Cost>) -> Result<Self, RouteCostsError> {
        self.and(RoutePattern::Prefix, path, cost.into())
    }

    /// What a request of this head costs, for closures that make more of it:
    ///
    /// ```
    /// # use tower_sluice::{Cost, Global, MemoryBackend, Policy, Quota, RateLimitLayer, RouteCosts};
    /// # let limit = RateLimitLayer::new(Policy::new("p", Quota::per_minute(600)), Global, MemoryBackend::new());
    /// let costs = RouteCosts::new().route("/search", 5);
    /// let limit = limit.cost_fn(move |head| {
    ///     if head.headers.contains_key("x-internal") { Cost::ZERO } else { costs.get(head) }
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

    /// The entries that no request has had the cost of so far, through this table or a clone of it: in the order in
    /// which they were listed, as `/export/{id}`, `POST /serach`, `prefix /assets`.
    ///
    /// One that stays here is misspelt, stands behind another one, or is looked for where there is no template. Ask it
    /// at the end of a test that goes through all routes, or of a busy day.
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

fn must(made: Result<RouteCosts, RouteCostsError>) -> RouteCosts {
    match made {
        Ok(costs) => costs,
        Err(error) => panic!("{error}"),
    }
}

#[cfg(test)]
mod tests;
