use std::fmt;

use crate::message::Quoted;

/// The error returned for an invalid path in a table of costs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RouteCostsError {
    /// No request has this path: it does not begin with `/`, or has a query or fragment.
    Path(String),
    /// The prefix contains a pattern. Prefixes are compared with paths as sent.
    Prefix(String),
    /// The route or the prefix has a cost already.
    Duplicate(String),
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

/// Returns the path that was probably meant, without a method, an authority or a query.
pub(super) fn path_of(text: &str) -> String {
    let text = text.split(['?', '#']).next().unwrap_or_default();
    let text = text.split_whitespace().next_back().unwrap_or_default();
    let path = match text.split_once("://") {
        Some((_, rest)) => rest.split_once('/').map_or("", |(_, path)| path),
        None => text.trim_start_matches('/'),
    };
    format!("/{path}")
}

/// Returns the segments in front of the first pattern.
pub(super) fn prefix_of(path: &str) -> &str {
    let plain = path.split(['{', '}', '*']).next().unwrap_or_default();
    match plain.rsplit_once('/') {
        Some(("", _)) | None => "/",
        Some((prefix, _)) => prefix,
    }
}
