//! The entries of a table of costs, and which of them holds for a request.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ahash::RandomState;
#[cfg(feature = "axum")]
use axum::extract::MatchedPath;
use http::Method;

use crate::head::Head;
use crate::quota::Cost;

/// Copied when a table is added to of which there are clones. The entries, and so the marks, stay shared.
#[derive(Clone, Default)]
pub(super) struct RouteTable {
    pub(super) otherwise: Cost,
    /// In the order in which they were listed.
    pub(super) entries: Vec<Arc<RouteCost>>,
    /// Those of whole paths. There is one entry for each method, and one for any.
    pub(super) routes: HashMap<Box<str>, Vec<Arc<RouteCost>>, RandomState>,
    /// The longest first. There are few, and most differ from a path in their length or their first bytes.
    pub(super) prefixes: Vec<Arc<RouteCost>>,
}

pub(super) struct RouteCost {
    pub(super) pattern: RoutePattern,
    pub(super) path: Box<str>,
    pub(super) cost: Cost,
    pub(super) matched: AtomicBool,
}

#[derive(PartialEq, Eq)]
pub(super) enum RoutePattern {
    /// The path itself, by one method or by any.
    Route(Option<Method>),
    /// The path and what is below it.
    Prefix,
}

impl RouteTable {
    pub(super) fn find(&self, head: &Head<'_>) -> Option<&RouteCost> {
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
    pub(super) fn mark(&self) {
        if !self.is_matched() {
            self.matched.store(true, Ordering::Relaxed); // carries no other memory
        }
    }

    pub(super) fn is_matched(&self) -> bool {
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
