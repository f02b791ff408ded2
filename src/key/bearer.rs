use http::Request;
use http::header::AUTHORIZATION;

use super::text::{is_token, trim};
use super::{Key, KeyError, KeyExtractor, Part};

/// The bearer token in `Authorization` (RFC 6750 §2.1), always a secret ([`Key::secret`]): it is neither stored nor
/// sent nor shown as it is, backends get a fingerprint of it.
///
/// What `Bearer` is written in front of and is no such token is rejected, never taken for none.
///
/// A client that can choose the token can choose its bucket: limit by it only behind something that has checked it, or
/// beside a limit by [`ClientIp`](super::ClientIp).
#[derive(Clone, Copy, Debug, Default)]
pub struct Bearer;

impl<B> KeyExtractor<Request<B>> for Bearer {
    fn key(&self, request: &Request<B>) -> Result<Key, KeyError> {
        let mut lines = request.headers().get_all(AUTHORIZATION).iter();
        match (lines.next(), lines.next()) {
            (_, Some(_)) => Err(KeyError::Repeated(Part::Bearer)),
            (None, None) => Err(KeyError::Missing(Part::Bearer)),
            (Some(line), None) => token(trim(line.as_bytes())).map(Key::secret),
        }
    }
}

/// `"Bearer" 1*SP b64token`; schemes have no case (RFC 9110 §11.1). An application may make something of what is almost
/// that.
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
