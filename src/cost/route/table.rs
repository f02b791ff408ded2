//! The entries of a table of costs, and the lookup of the entry for a request.

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

/// The entries. Adding to a table with clones copies this struct, but the copies share the entries and their marks.
#[derive(Clone, Default)]
pub(super) struct RouteTable {
    pub(super) otherwise: Cost,
    /// In order of declaration.
    pub(super) entries: Vec<Arc<RouteCost>>,
    /// Entries for whole paths: one for each method, and one for any method.
    pub(super) routes: HashMap<Box<str>, Vec<Arc<RouteCost>>, RandomState>,
    /// The longest first. A table has few prefixes, and most comparisons end at the length or at the first bytes.
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
    /// The path itself, for one method or for any.
    Route(Option<Method>),
    /// The path and all paths below it.
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
    /// Returns whether the entry's path is a prefix of `path` in whole segments.
    fn is_above(&self, path: &str) -> bool {
        match path.strip_prefix(&*self.path) {
            Some(rest) => rest.is_empty() || rest.starts_with('/') || self.path.ends_with('/'),
            None => false,
        }
    }

    /// Loads before it stores: all threads read this cache line, and a store would invalidate it for the others.
    pub(super) fn mark(&self) {
        if !self.is_matched() {
            self.matched.store(true, Ordering::Relaxed); // publishes no other memory
        }
    }

    pub(super) fn is_matched(&self) -> bool {
        self.matched.load(Ordering::Relaxed)
    }
}

/// Returns the template of the route that axum's router has matched. In nested routers it is the whole template.
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
