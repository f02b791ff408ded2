//! The head of a request that is made by hand has the key of the request.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderName, Request};
use tower_sluice::key::{
    Bearer, ClientIp, Cookie, Extension, Global, Header, KeyExt, KeyExtractor, Method, Networks,
    Path, PeerAddr, Query, RequestHead, TrustedProxies, first_of, key_fn,
};
use tower_sluice::{Head, Key, PeerIp};

const PEER: &str = "[2001:db8:1:2::7]:443";

fn request() -> Request<&'static str> {
    let peer: SocketAddr = PEER.parse().expect("an address");
    let request = Request::post("https://example.org/acme?api_key=a%20b")
        .header("x-api-key", "s3cret")
        .header("authorization", "Bearer token")
        .header("cookie", "sid=crumb")
        .header("x-forwarded-for", "192.0.2.9")
        .extension(PeerAddr(peer))
        .extension(42_u64)
        .extension(String::from("acme"));
    request.body("body").expect("valid")
}

/// Checks that an extractor finds the key of the table in a request and in its parts.
#[track_caller]
fn finds<K>(extractor: K, key: Key)
where
    K: KeyExtractor<Request<&'static str>> + KeyExtractor<http::request::Parts>,
{
    let (parts, _) = request().into_parts();
    assert_eq!(extractor.key(&request()), Ok(key.clone()));
    assert_eq!(extractor.key(&parts), Ok(key));
}

#[test]
fn each_extractor_finds_the_key_of_the_table_in_parts() {
    let peer: IpAddr = PEER.parse::<SocketAddr>().expect("an address").ip();
    let proxies = TrustedProxies::new(["2001:db8::/32"]);
    let client: IpAddr = "192.0.2.9".parse().expect("an address");
    finds(PeerIp::new(), Key::from(peer));
    finds(ClientIp::new(), Key::from(peer));
    finds(ClientIp::new().forwarded_for(proxies), Key::from(client));
    finds(Header::new("x-api-key"), Key::secret("s3cret"));
    finds(Bearer, Key::secret("token"));
    finds(Cookie::new("sid"), Key::secret("crumb"));
    finds(Query::new("api_key"), Key::secret("a b"));
    finds(Extension::<u64>::new(), Key::from(42_u64));
    finds(Extension::<String>::new(), Key::new("acme"));
    finds(Path, Key::new("/acme"));
    finds(Method, Key::new("POST"));
    finds(Global, Key::new("global"));
    finds(key_fn(|head| Ok(Key::from(head.path()))), Key::new("/acme"));
    let both = Key::join([&Key::new("/acme"), &Key::secret("s3cret")]);
    finds((Path, Header::new("x-api-key")), both);
    let second = Key::join([&Key::from(1_u64), &Key::from(peer)]);
    finds(first_of((Header::new("x-other"), PeerIp::new())), second);
    let exempt = ClientIp::new().allow_list(Networks::new(["203.0.113.0/24"]));
    let guarded = Path
        .skip_if(|head| head.path() == "/health")
        .skip_method(http::Method::HEAD)
        .guarded_by(exempt);
    finds(guarded, Key::new("/acme"));
}

#[test]
fn a_head_of_parts_is_the_head_of_their_request() {
    fn names(request: &impl RequestHead) -> Vec<&HeaderName> {
        Head::from(request).headers.keys().collect()
    }
    let (whole, (parts, _)) = (request(), request().into_parts());
    let (of_whole, of_parts) = (Head::from(&whole), Head::from(&parts));
    assert_eq!(names(&whole), names(&parts));
    assert_eq!(
        (of_whole.method, of_whole.uri),
        (of_parts.method, of_parts.uri)
    );
    assert_eq!(of_parts.local_uri, of_parts.uri);
    assert_eq!(of_parts.extensions.get::<u64>(), Some(&42));
}
