use http::header::{HeaderName, InvalidHeaderName};

use super::text::trim;
use super::{Key, KeyError, KeyExtractor};
use crate::head::RequestHead;

/// The value of one header field, such as an API key, as a secret ([`Key::secret`]). Backends store a fingerprint of
/// it.
///
/// Guide: [choose a key](crate::_guide::keys).
///
/// **A client that can choose the value can choose its bucket.** Use this key behind a layer that checks the value, or
/// beside a limit by [`PeerIp`](super::PeerIp).
///
/// ```
/// use http::Request;
/// use tower_sluice::Key;
/// use tower_sluice::key::{Header, KeyExtractor};
///
/// let request = Request::builder().header("x-api-key", "s3cret").body(())?;
/// assert_eq!(Header::new("x-api-key").key(&request)?, Key::secret("s3cret"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Header(HeaderName);

impl Header {
    /// Uses the field `name`, in lower case.
    ///
    /// ```
    /// use http::Request;
    /// use tower_sluice::key::KeyExtractor;
    /// use tower_sluice::{Header, Key};
    ///
    /// let request = Request::get("/").header("x-api-key", "s3cret").body(())?;
    /// assert_eq!(Header::new("x-api-key").key(&request)?, Key::secret("s3cret"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if `name` is not a header name in lower case.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self(HeaderName::from_static(name))
    }

    /// Uses the field `name`.
    ///
    /// # Errors
    ///
    /// Returns an error if `name` is not a header name.
    pub fn try_new(name: &str) -> Result<Self, InvalidHeaderName> {
        name.parse().map(Self)
    }
}

impl From<HeaderName> for Header {
    fn from(name: HeaderName) -> Self {
        Self(name)
    }
}

impl<R: RequestHead> KeyExtractor<R> for Header {
    fn key(&self, request: &R) -> Result<Key, KeyError> {
        let mut values = request.headers().get_all(&self.0).iter();
        // An HTTP/1.1 server removes white space at both ends; an HTTP/2 server may not.
        let value = values.next().map(|value| trim(value.as_bytes()));
        match (value, values.next()) {
            (Some(value), None) if !value.is_empty() => Ok(Key::secret(value)),
            (Some(_), Some(_)) => Err(KeyError::RepeatedHeader(self.0.clone())),
            _ => Err(KeyError::MissingHeader(self.0.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn exactly_one_header_value_is_a_key() {
        let key = |values: &[&[u8]]| {
            let request = values.iter().fold(Request::builder(), |request, value| {
                request.header("x-api-key", *value)
            });
            Header::new("x-api-key").key(&request.body(()).expect("valid"))
        };
        let name = || HeaderName::from_static("x-api-key");
        assert_eq!(key(&[b"a"]), Ok(Key::secret("a")));
        assert_eq!(key(&[b"\xff\xfe"]), Ok(Key::secret(b"\xff\xfe")));
        assert_eq!(key(&[]), Err(KeyError::MissingHeader(name())));
        for empty in [&b""[..], b" ", b"\t "] {
            assert_eq!(key(&[empty]), Err(KeyError::MissingHeader(name())));
        }
        assert_eq!(key(&[b"\ta b "]), Ok(Key::secret("a b")));
        assert_eq!(key(&[b"a", b"a"]), Err(KeyError::RepeatedHeader(name())));
        assert_eq!(KeyError::MissingHeader(name()).status(), 400);
    }
}
