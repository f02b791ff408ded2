//! The target of a request as a key. Alone, it is a limit that all clients share. In a tuple with a client's key, each
//! client has a limit for each target.

#[cfg(feature = "axum")]
use axum::extract;
use http::Method as HttpMethod;

#[cfg(feature = "axum")]
use super::Part;
use super::{Key, KeyError, KeyExtractor};
use crate::head::{Head, RequestHead};

/// The path without its query, as the client sent it. In nested routers of axum it is the whole path.
///
/// **A client can spell one path in many ways (`/a`, `/%61`, `//a`), and each spelling is another bucket.** Paths that
/// do not exist have buckets as well. `MatchedPath` has one bucket for each route.
#[derive(Clone, Copy, Debug, Default)]
pub struct Path;

impl<R: RequestHead> KeyExtractor<R> for Path {
    fn key(&self, request: &R) -> Result<Key, KeyError> {
        Ok(Key::new(Head::from(request).path()))
    }
}

/// The template of the route that axum has matched, such as `/users/{id}`. In nested routers it is the whole template.
///
/// It is known under [`Router::layer`](axum::Router::layer) and at the routes, but not around a router nor in its
/// fallback; see [`cost`](crate::cost#places-that-know-the-route). Requests without it are rejected with 404;
/// `first_of((MatchedPath, Global))` has one bucket for all of them.
#[cfg(feature = "axum")]
#[derive(Clone, Copy, Debug, Default)]
pub struct MatchedPath;

#[cfg(feature = "axum")]
impl<R: RequestHead> KeyExtractor<R> for MatchedPath {
    fn key(&self, request: &R) -> Result<Key, KeyError> {
        match request.extensions().get::<extract::MatchedPath>() {
            Some(route) => Ok(Key::new(route.as_str())),
            None => Err(KeyError::Missing(Part::MatchedPath)),
        }
    }
}

/// The method. Methods outside of RFC 9110 and RFC 5789 share one key, because a client can invent any number of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Method;

impl<R: RequestHead> KeyExtractor<R> for Method {
    fn key(&self, request: &R) -> Result<Key, KeyError> {
        const KNOWN: [HttpMethod; 9] = [
            HttpMethod::GET,
            HttpMethod::POST,
            HttpMethod::PUT,
            HttpMethod::DELETE,
            HttpMethod::HEAD,
            HttpMethod::OPTIONS,
            HttpMethod::PATCH,
            HttpMethod::TRACE,
            HttpMethod::CONNECT,
        ];
        let method = request.method();
        Ok(Key::new(if KNOWN.contains(method) {
            method.as_str()
        } else {
            "other"
        }))
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn the_path_is_without_its_query() {
        let request = Request::get("https://example.org/a%2Fb/?q=1")
            .body(())
            .expect("valid");
        assert_eq!(Path.key(&request), Ok(Key::from("/a%2Fb/")));
    }

    #[test]
    fn invented_methods_have_one_key() {
        let key = |method: &str| {
            let request = Request::builder().method(method).body(()).expect("valid");
            Method.key(&request)
        };
        assert_eq!(key("PATCH"), Ok(Key::from("PATCH")));
        for invented in ["get", "PROPFIND", "A1", "other"] {
            assert_eq!(key(invented), Ok(Key::from("other")), "{invented}");
        }
    }

    #[cfg(feature = "axum")]
    #[test]
    fn no_route_is_a_404() {
        let error = MatchedPath.key(&Request::new(())).expect_err("no route");
        assert_eq!(error.status(), 404);
        assert!(error.to_string().contains("Router::layer"), "{error}");
    }
}
