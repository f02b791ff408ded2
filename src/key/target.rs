//! What a request asks for: alone, a limit that all clients share; in a tuple, one of each client's for each.

#[cfg(feature = "axum")]
use axum::extract;
use http::{Method as HttpMethod, Request};

#[cfg(feature = "axum")]
use super::Part;
use super::{Key, KeyError, KeyExtractor};
use crate::head::Head;

/// The path, without its query, as the client has sent it; in nested routers of axum the whole of it.
///
/// **A client that can write one path in many ways (`/a`, `/%61`, `//a`) has as many buckets**, and so has one that
/// asks for what is not there: `MatchedPath` has one for each route.
#[derive(Clone, Copy, Debug, Default)]
pub struct Path;

impl<B> KeyExtractor<Request<B>> for Path {
    fn key(&self, request: &Request<B>) -> Result<Key, KeyError> {
        Ok(Key::new(Head::from(request).path()))
    }
}

/// The template of the route that axum has matched, `/users/{id}`; in nested routers the whole of it.
///
/// It is known under [`Router::layer`](axum::Router::layer) and at the routes, not around a router nor for its
/// fallback; see [`cost`](crate::cost#which-places-know-the-route). Requests without it are rejected with 404;
/// `first_of((MatchedPath, Global))` has one bucket for all of them.
#[cfg(feature = "axum")]
#[derive(Clone, Copy, Debug, Default)]
pub struct MatchedPath;

#[cfg(feature = "axum")]
impl<B> KeyExtractor<Request<B>> for MatchedPath {
    fn key(&self, request: &Request<B>) -> Result<Key, KeyError> {
        match request.extensions().get::<extract::MatchedPath>() {
            Some(route) => Ok(Key::new(route.as_str())),
            None => Err(KeyError::Missing(Part::MatchedPath)),
        }
    }
}

/// The method. Those that are not of RFC 9110 or RFC 5789 have one key together: a client could invent any number.
#[derive(Clone, Copy, Debug, Default)]
pub struct Method;

impl<B> KeyExtractor<Request<B>> for Method {
    fn key(&self, request: &Request<B>) -> Result<Key, KeyError> {
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
