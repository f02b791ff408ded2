use std::sync::Arc;

use http::Uri;

use super::{Key, KeyError, KeyExtractor, Part, text};
use crate::head::{Head, RequestHead};

/// The value of one query parameter, such as `?api_key=..`, as a secret ([`Key::secret`]). Backends store a fingerprint
/// of it.
///
/// Names and values are decoded as in forms (`%61` and `+`). A value therefore has one bucket in all its spellings. An
/// empty value counts as missing. A request with two parameters of the name is rejected.
///
/// **A client that can choose the value can choose its bucket.** Use this key behind a layer that checks the value, or
/// beside a limit by [`ClientIp`](super::ClientIp).
///
/// ```
/// use http::Request;
/// use tower_sluice::Key;
/// use tower_sluice::key::{KeyExtractor, Query};
///
/// let request = Request::get("/search?api_key=s3cret&q=x").body(())?;
/// assert_eq!(Query::new("api_key").key(&request)?, Key::secret("s3cret"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Query(Arc<str>);

impl Query {
    /// Uses the parameter `name`. Names are case-sensitive.
    ///
    /// See the example of [`Query`].
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    fn values<'a>(&'a self, uri: &'a Uri) -> impl Iterator<Item = &'a str> {
        let pairs = uri.query().into_iter().flat_map(|query| query.split('&'));
        pairs.filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            decoded(name).eq(self.0.bytes()).then_some(value)
        })
    }
}

impl<R: RequestHead> KeyExtractor<R> for Query {
    fn key(&self, request: &R) -> Result<Key, KeyError> {
        let mut values = self.values(Head::from(request).uri);
        match (values.next(), values.next()) {
            (Some(value), None) if !value.is_empty() => Ok(Key::from_secret_bytes(decoded(value))),
            (Some(_), Some(_)) => Err(KeyError::Repeated(Part::Query(Arc::clone(&self.0)))),
            _ => Err(KeyError::Missing(Part::Query(Arc::clone(&self.0)))),
        }
    }
}

/// Decodes `application/x-www-form-urlencoded` (WHATWG URL §5.1).
fn decoded(text: &str) -> impl Iterator<Item = u8> {
    text::decoded(text.as_bytes(), b' ')
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn exactly_one_query_value_is_a_key() {
        let key = |query: &str| {
            let request = Request::get(format!("/path?{query}")).body(());
            Query::new("api key").key(&request.expect("valid"))
        };
        let part = || Part::Query("api key".into());
        for query in [
            "api+key=a%20b",
            "x=1&api%20key=a+b",
            "api%20ke%79=%61+b&y",
            "&&api+key=a+b&",
        ] {
            assert_eq!(key(query), Ok(Key::secret("a b")), "{query}");
        }
        assert_eq!(key("api+key=%00%fF%7"), Ok(Key::secret(b"\0\xff%7")));
        assert_eq!(key("api+key=%%61%zz=="), Ok(Key::secret("%a%zz==")));
        for query in [
            "",
            "api+key",
            "api+key=",
            "Api+key=a",
            "x=api+key=a",
            "api%2bkey=a",
        ] {
            assert_eq!(key(query), Err(KeyError::Missing(part())), "{query}");
        }
        for query in ["api+key=a&api+key=a", "api+key=&api%20key=a"] {
            assert_eq!(key(query), Err(KeyError::Repeated(part())), "{query}");
        }
        let bare = Request::get("/path").body(()).expect("valid");
        assert_eq!(
            Query::new("q").key(&bare),
            Err(KeyError::Missing(Part::Query("q".into())))
        );
    }
}
