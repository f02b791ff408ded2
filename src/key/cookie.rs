use std::fmt;
use std::sync::Arc;

use http::header::{COOKIE, HeaderMap};
use smallvec::SmallVec;

use super::text::{decoded, is_token, trim};
use super::{Key, KeyError, KeyExtractor, Part};
use crate::head::RequestHead;
use crate::message::Quoted;

/// The value of one cookie, such as a session, as a secret ([`Key::secret`]). Backends store a fingerprint of it.
///
/// Names and values are percent-decoded, as many frameworks do. A value therefore has one bucket in all its spellings.
/// Quotes around the value are removed. An empty value counts as missing. A request with two cookies of the name is
/// rejected.
///
/// **A client that can choose the value can choose its bucket.** Use this key behind a layer that checks the value, or
/// beside a limit by [`ClientIp`](super::ClientIp).
///
/// ```
/// use http::Request;
/// use tower_sluice::Key;
/// use tower_sluice::key::{Cookie, KeyExtractor};
///
/// let request = Request::builder().header("cookie", "theme=dark; sid=s3cret").body(())?;
/// assert_eq!(Cookie::new("sid").key(&request)?, Key::secret("s3cret"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Cookie(Arc<str>);

/// The error returned for an invalid cookie name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidCookieName(Box<str>);

impl fmt::Display for InvalidCookieName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            r##"invalid cookie name {}: use letters, digits and !#$%&'*+-.^_`|~, such as "session""##,
            Quoted(&self.0)
        )
    }
}

impl std::error::Error for InvalidCookieName {}

impl Cookie {
    /// Uses the cookie `name`. Names are case-sensitive.
    ///
    /// See the example of [`Cookie`].
    ///
    /// # Panics
    ///
    /// Panics if `name` is not a token (RFC 9110 §5.6.2).
    #[must_use]
    #[track_caller]
    pub fn new(name: &'static str) -> Self {
        Self::try_new(name).unwrap_or_else(|why| panic!("{why}"))
    }

    /// Uses the cookie `name`. Names are case-sensitive.
    ///
    /// ```
    /// use tower_sluice::key::Cookie;
    ///
    /// assert!(Cookie::try_new("session").is_ok());
    /// assert!(Cookie::try_new("my session").is_err());
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if `name` is not a token (RFC 9110 §5.6.2).
    pub fn try_new(name: &str) -> Result<Self, InvalidCookieName> {
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(InvalidCookieName(name.into()));
        }
        Ok(Self(name.into()))
    }
}

impl<R: RequestHead> KeyExtractor<R> for Cookie {
    fn key(&self, request: &R) -> Result<Key, KeyError> {
        let mut values = values(request.headers(), self.0.as_bytes());
        let value = match (values.next(), values.next()) {
            (Some(_), Some(_)) => {
                return Err(KeyError::Repeated(Part::Cookie(Arc::clone(&self.0))));
            }
            (value, _) => value.unwrap_or_default(),
        };
        let value: SmallVec<[u8; 64]> = decoded(value, b'+').collect();
        let bare = match &*value {
            [b'"', bare @ .., b'"'] => bare,
            value => value,
        };
        match bare {
            [] => Err(KeyError::Missing(Part::Cookie(Arc::clone(&self.0)))),
            bare => Ok(Key::secret(bare)),
        }
    }
}

/// Returns the values of the cookie (RFC 6265 §4.2.1). HTTP/2 clients may split the field (RFC 9113 §8.2.3).
fn values<'a>(headers: &'a HeaderMap, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(COOKIE).iter();
    let pairs = lines.flat_map(|line| line.as_bytes().split(|letter| *letter == b';'));
    pairs.filter_map(move |pair| {
        let equals = pair.iter().position(|letter| *letter == b'=')?;
        let is_it = decoded(trim(&pair[..equals]), b'+').eq(decoded(name, b'+'));
        is_it.then(|| trim(&pair[equals + 1..]))
    })
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn exactly_one_cookie_value_is_a_key() {
        let key = |lines: &[&[u8]]| {
            let request = lines.iter().fold(Request::builder(), |request, line| {
                request.header(COOKIE, *line)
            });
            Cookie::new("sid").key(&request.body(()).expect("valid"))
        };
        let part = || Part::Cookie("sid".into());
        for lines in [
            &[&b"sid=a"[..]][..],
            &[b"x=sid=b; sid=a; y=z"],
            &[b"x=1;sid=\"a\";sida=b"],
            &[b"SID=b; sid = a ;"],
            &[b"x=1", b"sid=a", b"y=2"],
        ] {
            assert_eq!(key(lines), Ok(Key::secret("a")), "{lines:?}");
        }
        for lines in [&b"s%69d=%61"[..], b"sid=%22a%22; s%6xd=b", b"sid=\"%61\""] {
            assert_eq!(key(&[lines]), Ok(Key::secret("a")), "{lines:?}");
        }
        assert_eq!(key(&[b"sid=a+b%2B%%3d"]), Ok(Key::secret("a+b+%=")));
        assert_eq!(key(&[b"sid=a=\xff"]), Ok(Key::secret(b"a=\xff")));
        assert_eq!(key(&[b"sid=\""]), Ok(Key::secret("\"")));
        for lines in [
            &[][..],
            &[&b"sid"[..]],
            &[b"sid="],
            &[b"sid=\"\""],
            &[b"x=sid=a"],
            &[b""],
        ] {
            assert_eq!(key(lines), Err(KeyError::Missing(part())), "{lines:?}");
        }
        for lines in [
            &[&b"sid=a; sid=a"[..]][..],
            &[b"sid=a", b"sid="],
            &[b"sid=a;%73id="],
        ] {
            assert_eq!(key(lines), Err(KeyError::Repeated(part())), "{lines:?}");
        }
        assert_eq!(KeyError::Missing(part()).status(), 400);
        let percent = Request::builder().header(COOKIE, "a%41=b").body(());
        let key = Cookie::new("a%41").key(&percent.expect("valid"));
        assert_eq!(key, Ok(Key::secret("b")));
    }

    #[test]
    fn names_are_checked() {
        for name in ["", "a b", "a=b", "a;b", "ä"] {
            let error = Cookie::try_new(name).expect_err(name).to_string();
            assert!(
                error.starts_with(&format!("invalid cookie name {name:?}: use")),
                "{error}"
            );
        }
    }
}
