use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ahash::RandomState;
#[cfg(feature = "axum")]
use axum::extract::MatchedPath;
use http::{Method, Request};

use super::CostOf;
use crate::head::Head;
use crate::message::Quoted;
use crate::quota::Cost;

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

/// Copied when a table is added to of which there are clones. The entries, and so the marks, stay shared.
#[derive(Clone, Default)]
struct RouteTable {
    otherwise: Cost,
    /// In the order in which they were listed.
    entries: Vec<Arc<RouteCost>>,
    /// Those of whole paths. There is one entry for each method, and one for any.
    routes: HashMap<Box<str>, Vec<Arc<RouteCost>>, RandomState>,
    /// The longest first. There are few, and most differ from a path in their length or their first bytes.
    prefixes: Vec<Arc<RouteCost>>,
}

struct RouteCost {
    pattern: RoutePattern,
    path: Box<str>,
    cost: Cost,
    matched: AtomicBool,
}

#[derive(PartialEq, Eq)]
enum RoutePattern {
    /// The path itself, by one method or by any.
    Route(Option<Method>),
    /// The path and what is below it.
    Prefix,
}

/// Why a path cannot be in a table of costs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RouteCostsError {
    /// No request has such a path: it does not begin with `/`, or has a query or fragment.
    Path(String),
    /// A prefix is compared with paths as sent, in which nothing stands for something else.
    Prefix(String),
    /// The route, or the prefix, has a cost already.
    Duplicate(String),
}

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

impl RouteTable {
    fn find(&self, head: &Head<'_>) -> Option<&RouteCost> {
        if let Some(template) = template(head)
            && let Some(entry) = self.route(template, head.method)
        {
            return Some(entry);
        }
        let path = head.path();
        self.route(path, head.method).or_else(|| self.prefix(path))
    }

    fn route(&self, path: &str, method: &Method) -> Option<&RouteCost> {
        let entries = self.routes.get(path)?;
        let of = |wanted: Option<&Method>| {
            let mut entries = entries.iter();
            entries.find(|entry| entry.pattern.route() == Some(wanted))
        };
        let head_of_get = || {
            let of_get = of(Some(&Method::GET));
            of_get.filter(|_| *method == Method::HEAD)
        };
        of(Some(method))
            .or_else(head_of_get)
            .or_else(|| of(None))
            .map(|entry| &**entry)
    }

    fn prefix(&self, path: &str) -> Option<&RouteCost> {
        let found = self.prefixes.iter().find(|entry| entry.is_above(path));
        found.map(|entry| &**entry)
    }
}

impl RoutePattern {
    fn route(&self) -> Option<Option<&Method>> {
        match self {
            Self::Route(method) => Some(method.as_ref()),
            Self::Prefix => None,
        }
    }
}

impl RouteCost {
    /// Whether its path is a prefix of `path` in whole segments.
    fn is_above(&self, path: &str) -> bool {
        match path.strip_prefix(&*self.path) {
            Some(rest) => rest.is_empty() || rest.starts_with('/') || self.path.ends_with('/'),
            None => false,
        }
    }

    /// Loads before it stores: all threads read one line of memory, and a store would take it away from the others.
    fn mark(&self) {
        if !self.is_matched() {
            self.matched.store(true, Ordering::Relaxed); // carries no other memory
        }
    }

    fn is_matched(&self) -> bool {
        self.matched.load(Ordering::Relaxed)
    }
}

/// The template of the route that axum's router has matched, whole in nested routers.
#[cfg(feature = "axum")]
fn template<'a>(head: &Head<'a>) -> Option<&'a str> {
    head.extensions.get().map(MatchedPath::as_str)
}

#[cfg(not(feature = "axum"))]
fn template<'a>(_: &Head<'a>) -> Option<&'a str> {
    None
}

impl fmt::Display for RouteCost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.pattern {
            RoutePattern::Route(None) => {}
            RoutePattern::Route(Some(method)) => write!(f, "{method} ")?,
            RoutePattern::Prefix => f.write_str("prefix ")?,
        }
        f.write_str(&self.path)
    }
}

impl fmt::Debug for RouteCost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteCost")
            .field("cost", &self.cost)
            .field("matched", &self.is_matched())
            .finish()
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

impl fmt::Display for RouteCostsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(
                f,
                r##"invalid path {}: begin with "/", and leave out the query and "#", such as {}"##,
                Quoted(path),
                Quoted(&path_of(path))
            ),
            Self::Prefix(path) => write!(
                f,
                r#"invalid prefix {}: leave out "{{", "}}" and "*"; a prefix holds for all paths below it, such as {}"#,
                Quoted(path),
                Quoted(prefix_of(path))
            ),
            Self::Duplicate(entry) => {
                write!(f, "duplicate entry {}: keep one of them", Quoted(entry))
            }
        }
    }
}

impl std::error::Error for RouteCostsError {}

/// The path that was probably meant, without a method, an authority or a query.
fn path_of(text: &str) -> String {
    let text = text.split(['?', '#']).next().unwrap_or_default();
    let text = text.split_whitespace().next_back().unwrap_or_default();
    let path = match text.split_once("://") {
        Some((_, rest)) => rest.split_once('/').map_or("", |(_, path)| path),
        None => text.trim_start_matches('/'),
    };
    format!("/{path}")
}

/// The segments in front of the first pattern.
fn prefix_of(path: &str) -> &str {
    let plain = path.split(['{', '}', '*']).next().unwrap_or_default();
    match plain.rsplit_once('/') {
        Some(("", _)) | None => "/",
        Some((prefix, _)) => prefix,
    }
}

fn must(made: Result<RouteCosts, RouteCostsError>) -> RouteCosts {
    match made {
        Ok(costs) => costs,
        Err(error) => panic!("{error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(costs: &RouteCosts, method: &Method, path: &str) -> u64 {
        let request = Request::builder().method(method).uri(path).body(());
        costs.cost(&request.expect("a valid head")).get(0)
    }

    fn get(costs: &RouteCosts, path: &str) -> u64 {
        cost(costs, &Method::GET, path)
    }

    #[test]
    fn unlisted_routes_cost_one_or_the_default() {
        assert_eq!(get(&RouteCosts::new(), "/"), 1);
        assert_eq!(get(&RouteCosts::new().otherwise(7), "/"), 7);
        let asked_late = RouteCosts::new()
            .route("/a", 0)
            .otherwise(Cost::each([2, 9]));
        assert_eq!([get(&asked_late, "/a"), get(&asked_late, "/b")], [0, 2]);
        let request = Request::new(());
        assert_eq!(asked_late.cost(&request), Cost::each([2, 9]));
    }

    #[test]
    fn a_path_is_exact_and_without_its_query() {
        let costs = RouteCosts::new()
            .route("/pkg.Service/Method", 5)
            .route("/", 3);
        let asked = [
            "/pkg.Service/Method",
            "/pkg.Service/Method?a=/",
            "http://host/pkg.Service/Method",
            "/pkg.Service/Method/",
            "/pkg.Service/method",
            "/pkg.Service/Metho%64",
            "/",
            "http://host",
            "*",
        ];
        let asked = asked.map(|path| get(&costs, path));
        assert_eq!(asked, [5, 5, 5, 1, 1, 1, 3, 3, 1]);
    }

    #[test]
    fn route_with_a_method_takes_precedence_in_any_order() {
        let one = RouteCosts::new()
            .route("/a", 2)
            .method(Method::POST, "/a", 5);
        let two = RouteCosts::new()
            .method(Method::POST, "/a", 5)
            .route("/a", 2);
        for costs in [one, two] {
            let methods = [Method::GET, Method::POST, Method::HEAD, Method::DELETE];
            let asked = methods.map(|method| cost(&costs, &method, "/a"));
            assert_eq!(asked, [2, 5, 2, 2]);
        }
    }

    #[test]
    fn head_costs_what_get_does_unless_it_is_listed() {
        let costs = RouteCosts::new()
            .route("/a", 2)
            .method(Method::GET, "/a", 50)
            .method(Method::GET, "/b", 50)
            .method(Method::HEAD, "/b", 3)
            .method(Method::HEAD, "/c", 4);
        let head = ["/a", "/b", "/c"].map(|path| cost(&costs, &Method::HEAD, path));
        assert_eq!(head, [50, 3, 4]);
        let get = ["/a", "/b", "/c"].map(|path| get(&costs, path));
        assert_eq!(get, [50, 50, 1]);
    }

    #[test]
    fn path_listed_for_other_methods_does_not_match() {
        let costs = RouteCosts::new()
            .method(Method::POST, "/a/b", 5)
            .prefix("/a", 3);
        let methods = [Method::POST, Method::GET, Method::HEAD];
        let asked = methods.map(|method| cost(&costs, &method, "/a/b"));
        assert_eq!(asked, [5, 3, 3]);
    }

    #[test]
    fn the_longest_prefix_in_whole_segments_holds() {
        let costs = RouteCosts::new()
            .prefix("/files", 2)
            .prefix("/files/big/data", 4)
            .prefix("/files/big", 3)
            .prefix("/below/", 5)
            .route("/files", 9);
        let asked = [
            "/files",
            "/files/",
            "/files/x",
            "/files?x",
            "/filesystem",
            "/files/bigger",
            "/files/big",
            "/files/big/data/x",
            "/below",
            "/below/",
            "/below/x",
        ];
        let asked = asked.map(|path| get(&costs, path));
        assert_eq!(asked, [9, 2, 2, 9, 1, 2, 3, 4, 1, 5, 5]);
        let costs = costs.prefix("/", 8);
        let asked = ["/", "/filesystem", "/files/x", "*"].map(|path| get(&costs, path));
        assert_eq!(asked, [8, 8, 2, 1]);
    }

    #[test]
    fn a_prefix_sees_the_path_as_sent() {
        let costs = RouteCosts::new().prefix("/files/big", 9);
        let sent = [
            "/files/%62ig",
            "/files//big",
            "/files/x/../big",
            "/Files/big",
        ];
        assert_eq!(sent.map(|path| get(&costs, path)), [1; 4]);
    }

    #[test]
    fn errors_name_the_remedy() {
        let why = |made: Result<RouteCosts, RouteCostsError>| made.unwrap_err().to_string();
        let new = RouteCosts::new;
        for path in [
            "",
            "search",
            "search/",
            "/search?q=",
            "/search#top",
            "https://host/",
        ] {
            let refused = Err(RouteCostsError::Path(path.into()));
            assert_eq!(new().try_route(path, 1).map(drop), refused);
            assert_eq!(new().try_prefix(path, 1).map(drop), refused);
            assert_eq!(new().try_method(Method::GET, path, 1).map(drop), refused);
        }
        assert_eq!(
            why(new().try_route("sea\nrch", 1)),
            r##"invalid path "sea\nrch": begin with "/", and leave out the query and "#", such as "/rch""##
        );
        assert_eq!(
            why(new().try_prefix("/files/{*rest}", 1)),
            r#"invalid prefix "/files/{*rest}": leave out "{", "}" and "*"; a prefix holds for all paths below it, such as "/files""#
        );
        assert!(new().try_prefix("/files/*", 1).is_err());

        let all = || {
            let one = new().route("/a", 1).prefix("/a", 1);
            one.method(Method::GET, "/a", 1)
                .method(Method::HEAD, "/a", 1)
        };
        let twice = |entry: &str| format!("duplicate entry {entry:?}: keep one of them");
        assert_eq!(why(all().try_route("/a", 2)), twice("/a"));
        assert_eq!(why(all().try_prefix("/a", 2)), twice("prefix /a"));
        let again = all().try_method(Method::HEAD, "/a", 2);
        assert_eq!(why(again), twice("HEAD /a"));
    }

    #[test]
    fn the_example_is_the_path_that_was_meant() {
        for (text, path) in [
            ("", "/"),
            ("search", "/search"),
            ("search/", "/search/"),
            ("/search?q=/x", "/search"),
            ("/search#top", "/search"),
            ("POST /search", "/search"),
            ("https://host/a/b?c", "/a/b"),
            ("https://host", "/"),
        ] {
            assert_eq!(path_of(text), path, "{text}");
            assert!(RouteCosts::new().try_route(&path_of(text), 1).is_ok());
        }
        for (text, prefix) in [
            ("/files/{*rest}", "/files"),
            ("/files/a*", "/files"),
            ("/{id}/x", "/"),
            ("/*", "/"),
        ] {
            assert_eq!(prefix_of(text), prefix, "{text}");
            assert!(RouteCosts::new().try_prefix(prefix_of(text), 1).is_ok());
        }
    }

    #[test]
    #[should_panic(expected = "duplicate entry \"POST /a\": keep one of them")]
    fn invalid_setting_fails_at_setup() {
        let costs = RouteCosts::new().method(Method::POST, "/a", 1);
        let _ = costs.method(Method::POST, "/a", 2);
    }

    #[test]
    fn unmatched_routes_are_listed_in_order_of_declaration() {
        let costs = RouteCosts::new()
            .method(Method::POST, "/serach", 5)
            .prefix("/assets", 0)
            .route("/a", Cost::each([1, 2]));
        let layer = costs.clone();
        get(&layer, "/a");
        get(&layer, "/search");
        assert_eq!(costs.unmatched(), ["POST /serach", "prefix /assets"]);
        assert_eq!(
            format!("{costs:?}"),
            "{POST /serach: RouteCost { cost: Cost(5), matched: false }, \
             prefix /assets: RouteCost { cost: Cost(0), matched: false }, \
             /a: RouteCost { cost: Cost([1, 2]), matched: true }, otherwise: Cost(1)}"
        );
    }

    #[test]
    fn extended_route_costs_share_their_match_marks() {
        let costs = RouteCosts::new().route("/a", 5);
        let more = costs.clone().route("/b", 6).otherwise(2);
        assert_eq!(["/a", "/b", "/c"].map(|path| get(&more, path)), [5, 6, 2]);
        assert!(costs.unmatched().is_empty() && more.unmatched().is_empty());
        assert_eq!(["/a", "/b", "/c"].map(|path| get(&costs, path)), [5, 1, 1]);
    }
}
