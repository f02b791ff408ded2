use super::{Key, KeyError, KeyExtractor};

/// The first key that a request has, of several extractors; made by [`first_of`].
#[derive(Clone, Copy, Debug)]
pub struct FirstOf<T>(T);

/// Uses the first extractor that finds a key: for example the user, else the API key, else the address.
///
/// ```
/// use http::Request;
/// use tower_sluice::key::{ClientIp, Extension, Header, KeyExtractor, PeerAddr, first_of};
///
/// let client = first_of((Extension::<String>::new(), Header::new("x-api-key"), ClientIp::new()));
/// let anonymous = || Request::builder().extension(PeerAddr(([203, 0, 113, 7], 4711).into()));
/// let user = anonymous().extension(String::from("203.0.113.7")).body(())?;
/// let key = client.key(&user)?;
/// assert_eq!(key.as_bytes(), b"1:011:203.0.113.7");
/// // A user whose name looks like an address does not share the bucket of that address.
/// assert_ne!(key, client.key(&anonymous().body(())?)?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// `first_of` tries the next extractor if the key is missing: no such header field, cookie, parameter, token, route or
/// extension, or [`KeyError::client`] from a closure. Any other error ends the search: a repeated value, a malformed
/// address, a misconfigured server, an exempt request. If no extractor finds a key, the request gets the error of the
/// last one.
pub const fn first_of<T>(extractors: T) -> FirstOf<T> {
    FirstOf(extractors)
}

/// Adds the number of the extractor, so that keys of different kinds differ.
fn tagged(index: u64, key: &Key) -> Key {
    Key::join([&Key::from(index), key])
}

macro_rules! first_of {
    ($($($part:ident $index:literal),+ => $last:ident $end:literal;)+) => {$(
        impl<R, $($part: KeyExtractor<R>,)+ $last: KeyExtractor<R>> KeyExtractor<R> for FirstOf<($($part,)+ $last)> {
            fn key(&self, request: &R) -> Result<Key, KeyError> {
                #[allow(non_snake_case)]
                let ($($part,)+ $last) = &self.0;
                $(
                    match $part.key(request) {
                        Ok(key) => return Ok(tagged($index, &key)),
                        Err(error) if error.is_missing() => {}
                        Err(error) => return Err(error),
                    }
                )+
                Ok(tagged($end, &$last.key(request)?))
            }
        }
    )+};
}

first_of! {
    A 0 => B 1;
    A 0, B 1 => C 2;
    A 0, B 1, C 2 => D 3;
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::super::{Bearer, Extension, Header, KeyExt, PeerIp, Query, key_fn};
    use super::*;

    #[test]
    fn first_of_asks_the_next_extractor_only_without_a_key() {
        let none = Request::get("/").body(()).expect("valid");
        let with = |name: &str, values: &[&str]| {
            let request = values.iter().fold(Request::get("/"), |request, value| {
                request.header(name, *value)
            });
            request.body(()).expect("valid")
        };
        let all = first_of((
            Extension::<u64>::new(),
            Bearer,
            Query::new("q"),
            Header::new("x"),
        ));
        assert_eq!(
            all.key(&with("x", &["v"])),
            Ok(tagged(3, &Key::secret("v")))
        );
        assert_eq!(
            all.key(&with("authorization", &["Bearer v"])),
            Ok(tagged(1, &Key::secret("v")))
        );
        assert!(all.key(&with("x", &["v"])).expect("a key").is_secret());
        assert_eq!(
            all.key(&none),
            Err(KeyError::MissingHeader(http::HeaderName::from_static("x")))
        );
        assert!(matches!(
            all.key(&with("authorization", &["Bearer v"; 2])),
            Err(KeyError::Repeated(_))
        ));

        let anyone = |request: &Request<()>| {
            first_of((Header::new("x"), PeerIp::new(), Bearer)).key(request)
        };
        assert_eq!(anyone(&none), Err(KeyError::MissingPeer));
        assert!(matches!(
            anyone(&with("x", &["v"; 2])),
            Err(KeyError::RepeatedHeader(_))
        ));

        let exempt = first_of((Bearer.skip_if(|_| true), Header::new("x")));
        assert_eq!(exempt.key(&with("x", &["v"])), Err(KeyError::Exempt));

        let failing =
            |error: KeyError| first_of((key_fn(move |_| Err(error.clone())), Header::new("x")));
        assert!(
            failing(KeyError::client("none"))
                .key(&with("x", &["v"]))
                .is_ok()
        );
        assert_eq!(
            failing(KeyError::server("broken")).key(&with("x", &["v"])),
            Err(KeyError::server("broken"))
        );
    }
}
