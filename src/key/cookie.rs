use std::fmt;
use std::sync::Arc;

use http::Request;
use http::header::{COOKIE, HeaderMap};
use smallvec::SmallVec;

use super::text::{decoded, is_token, trim};
use super::{Key, KeyError, KeyExtractor, Part};
use crate::message::Quoted;

/// The value of one cookie, such as a session. It is taken for a secret ([`Key::secret`]): backends keep and send a
/// fingerprint of it, nothing that can be read.
///
/// Names and values are decoded (`%61`), as many frameworks do, so that a value has one bucket however it is written.
/// Quotes around it are not part of it; an empty one is none, and the same name twice is rejected.
///
/// A client that can choose the value can choose its bucket: limit by a cookie only behind something that has checked
/// it, or beside a limit by [`ClientIp`](super::ClientIp).
#[derive(Clone, Debug)]
pub struct Cookie(Arc<str>);

/// The name of a cookie that none can have.
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
    /// The cookie named `name`; names have case.
    ///
    /// # Panics
    ///
    /// If no cookie can have that name.
    #[must_use]
    #[track_caller]
    pub fn new(name: &'static str) -> Self {
        Self::try_new(name).unwrap_or_else(|why| panic!("{why}"))
    }

    /// The cookie named `name`.
    ///
    /// # Errors
    ///
    /// If no cookie can have that name.
    pub fn try_new(name: &str) -> Result<Self, InvalidCookieName> {
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(InvalidCookieName(name.into()));
        }
        Ok(Self(name.into()))
    }
}

impl<B> KeyExtractor<Request<B>> for Cookie {
    fn key(&self, request: &Request<B>) -> Result<Key, KeyError> {
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

/// RFC 6265 §4.2.1; clients of HTTP/2 spread the field over lines (RFC 9113 §8.2.3).
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
