use http::header::AUTHORIZATION;

use super::text::{is_token, trim};
use super::{Key, KeyError, KeyExtractor, Part};
use crate::head::RequestHead;

/// The bearer token in `Authorization` (RFC 6750 §2.1), as a secret ([`Key::secret`]). Backends store a fingerprint of
/// it.
///
/// A malformed token after `Bearer` is rejected, and does not count as a missing token.
///
/// **A client that can choose the token can choose its bucket.** Use this key behind a layer that checks the token, or
/// beside a limit by [`ClientIp`](super::ClientIp).
///
/// ```
/// use http::Request;
/// use tower_sluice::Key;
/// use tower_sluice::key::{Bearer, KeyExtractor};
///
/// let request = Request::builder().header("authorization", "Bearer s3cret").body(())?;
/// assert_eq!(Bearer.key(&request)?, Key::secret("s3cret"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Bearer;

impl<R: RequestHead> KeyExtractor<R> for Bearer {
    fn key(&self, request: &R) -> Result<Key, KeyError> {
        let mut lines = request.headers().get_all(AUTHORIZATION).iter();
        match (lines.next(), lines.next()) {
            (_, Some(_)) => Err(KeyError::Repeated(Part::Bearer)),
            (None, None) => Err(KeyError::Missing(Part::Bearer)),
            (Some(line), None) => token(trim(line.as_bytes())).map(Key::secret),
        }
    }
}

/// Reads `"Bearer" 1*SP b64token`; schemes are case-insensitive (RFC 9110 §11.1). A malformed token is an error,
/// because an application may accept it.
fn token(line: &[u8]) -> Result<&[u8], KeyError> {
    let (scheme, after) = line.split_at_checked(6).unwrap_or((line, b""));
    let is_longer = after.first().is_some_and(|letter| is_token(*letter));
    let token = trim(after);
    if !scheme.eq_ignore_ascii_case(b"Bearer") || is_longer || token.is_empty() {
        return Err(KeyError::Missing(Part::Bearer));
    }
    let is_letter = |letter: &u8| letter.is_ascii_alphanumeric() || b"-._~+/=".contains(letter);
    if after.starts_with(b" ") && token.iter().all(is_letter) {
        Ok(token)
    } else {
        Err(KeyError::Malformed(Part::Bearer))
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn exactly_one_bearer_token_is_a_key() {
        let key = |lines: &[&[u8]]| {
            let request = lines.iter().fold(Request::builder(), |request, line| {
                request.header(AUTHORIZATION, *line)
            });
            Bearer.key(&request.body(()).expect("valid"))
        };
        assert_eq!(key(&[b"Bearer aZ9-._~+/="]), Ok(Key::secret("aZ9-._~+/=")));
        assert_eq!(key(&[b"bEARER   a"]), Ok(Key::secret("a")));
        assert_eq!(key(&[b" Bearer a\t"]), Ok(Key::secret("a")));
        for line in [
            &b"Bearer\ta"[..],
            b"Bearer a b",
            b"Bearer a,b",
            b"Bearer \xff",
            b"Bearer\"a\"",
            b"bearer, a",
        ] {
            assert_eq!(
                key(&[line]),
                Err(KeyError::Malformed(Part::Bearer)),
                "{line:?}"
            );
        }
        for line in [
            &b""[..],
            b"Bear",
            b"Bearer",
            b"Bearer ",
            b"Bearera",
            b"Bearer-a b",
            b"Basic YTpi",
        ] {
            assert_eq!(
                key(&[line]),
                Err(KeyError::Missing(Part::Bearer)),
                "{line:?}"
            );
        }
        assert_eq!(key(&[]), Err(KeyError::Missing(Part::Bearer)));
        assert_eq!(
            key(&[b"Bearer a", b"Basic YTpi"]),
            Err(KeyError::Repeated(Part::Bearer))
        );
    }
}
