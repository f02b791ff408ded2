use http::Request;
use http::header::{AUTHORIZATION, HeaderValue};

use super::{Key, KeyError, KeyExtractor, Part};

/// The bearer token in `Authorization` (RFC 6750 §2.1), always a secret ([`Key::secret`]): it is neither stored nor sent nor shown as
/// it is, backends get a fingerprint of it.
///
/// A client that can choose the token can choose its bucket: limit by it only behind something that has checked it, or beside a
/// limit by [`ClientIp`](super::ClientIp).
#[derive(Clone, Copy, Debug, Default)]
pub struct Bearer;

impl<B> KeyExtractor<Request<B>> for Bearer {
    fn key(&self, request: &Request<B>) -> Result<Key, KeyError> {
        let mut lines = request.headers().get_all(AUTHORIZATION).iter();
        match (lines.next(), lines.next()) {
            (_, Some(_)) => Err(KeyError::Repeated(Part::Bearer)),
            (line, None) => match line.and_then(token) {
                Some(token) => Ok(Key::secret(token)),
                None => Err(KeyError::Missing(Part::Bearer)),
            },
        }
    }
}

/// `"Bearer" 1*SP b64token`; schemes have no case (RFC 9110 §11.1).
fn token(line: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = line.as_bytes().split_at_checked(6)?;
    let is_bearer = scheme.eq_ignore_ascii_case(b"Bearer") && token.starts_with(b" ");
    let token = super::trim(token);
    let is_letter = |letter: &u8| letter.is_ascii_alphanumeric() || b"-._~+/=".contains(letter);
    (is_bearer && !token.is_empty() && token.iter().all(is_letter)).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_token_is_a_key_and_anything_else_a_refusal() {
        let key = |lines: &[&[u8]]| {
            let request = lines.iter().fold(Request::builder(), |request, line| {
                request.header(AUTHORIZATION, *line)
            });
            Bearer.key(&request.body(()).expect("valid"))
        };
        assert_eq!(key(&[b"Bearer aZ9-._~+/="]), Ok(Key::secret("aZ9-._~+/=")));
        assert_eq!(key(&[b"bEARER   a"]), Ok(Key::secret("a")));
        for line in [
            &b""[..],
            b"Bearer",
            b"Bearer ",
            b"Bearera",
            b"Bearer\ta",
            b"Bearer a b",
            b"Bearer a,b",
            b"Bearer \xff",
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
