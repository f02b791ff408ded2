//! Requests that a limit exempts, and requests that it rejects.

use http::{Method, Request};
use tower::Layer;
use tower_sluice::key::{
    Bearer, ClientIp, Cookie, Header, KeyExt, KeyExtractor, Networks, PeerAddr, Query,
    TrustedProxies, first_of,
};
use tower_sluice::{Global, RateLimitLayer};

use crate::support::{ClientResponse, Memory, hello, memory, seen, two_a_minute};

fn limit<K>(key: K) -> RateLimitLayer<K, Memory> {
    RateLimitLayer::new(two_a_minute(), key, memory())
}

fn from(peer: [u8; 4]) -> http::request::Builder {
    Request::builder().extension(PeerAddr((peer, 4711).into()))
}

/// The statuses of this many requests.
fn answers<K>(
    limit: RateLimitLayer<K, Memory>,
    request: impl Fn() -> http::request::Builder,
    count: usize,
) -> Vec<ClientResponse>
where
    K: KeyExtractor<Request<()>> + Clone,
{
    let mut service = limit.layer(hello());
    let request = || request().body(()).expect("a valid head");
    (0..count).map(|_| seen(&mut service, request())).collect()
}

fn statuses<K>(key: K, request: impl Fn() -> http::request::Builder) -> Vec<u16>
where
    K: KeyExtractor<Request<()>> + Clone,
{
    let answers = answers(limit(key), request, 3);
    answers.iter().map(|seen| seen.status.as_u16()).collect()
}

const LIMITED: [u16; 3] = [200, 200, 429];
const FREE: [u16; 3] = [200; 3];

const CLIENT: [u8; 4] = [198, 51, 100, 1];

#[test]
fn allow_listed_clients_are_not_counted_and_get_no_fields() {
    let key = ClientIp::new().allow_list(Networks::new(["203.0.113.0/24"]));
    for seen in answers(limit(key.clone()), || from([203, 0, 113, 9]), 3) {
        assert_eq!(seen.status, 200);
        assert!(seen.has_no_rate_limit_fields(), "{seen:?}");
    }
    assert_eq!(statuses(key, || from(CLIENT)), LIMITED);
}

#[test]
fn deny_listed_clients_are_rejected_without_a_reason() {
    let both = Networks::new(["203.0.113.0/24"]);
    let key = ClientIp::new().allow_list(both.clone()).deny_list(both);
    for limit in [limit(key.clone()), limit(key.clone()).skip_unkeyed()] {
        for seen in answers(limit, || from([203, 0, 113, 9]), 3) {
            assert_eq!(seen.status, 403);
            let body = r#"{"type":"about:blank","title":"Forbidden","status":403}"#;
            assert_eq!(seen.body, body);
            assert!(seen.has_no_rate_limit_fields(), "{seen:?}");
        }
    }
    assert_eq!(statuses(key.clone(), || from(CLIENT)), LIMITED);
    let grpc = || {
        let call = from([203, 0, 113, 9]).method("POST");
        call.header("content-type", "application/grpc")
    };
    let answer = answers(limit(key), grpc, 1).remove(0);
    assert_eq!(
        (answer.status.as_u16(), answer.lines("grpc-status")),
        (200, vec!["7"])
    );
}

#[test]
fn lists_apply_to_the_client_and_not_to_its_proxy() {
    let proxies = TrustedProxies::loopback_and_private();
    let key = ClientIp::new()
        .forwarded_for(proxies)
        .deny_list(Networks::new(["203.0.113.7"]));
    let through =
        |client: &'static str| move || from([10, 0, 0, 1]).header("x-forwarded-for", client);
    assert_eq!(statuses(key.clone(), through("203.0.113.7")), [403; 3]);
    assert_eq!(
        statuses(key.clone(), through("::ffff:203.0.113.7")),
        [403; 3]
    );
    assert_eq!(statuses(key, through("203.0.113.7, 203.0.113.8")), LIMITED);
}

#[test]
fn guarded_by_applies_its_lists_before_any_key() {
    let guard = ClientIp::new()
        .allow_list(Networks::loopback_and_private())
        .deny_list(Networks::new(["203.0.113.0/24"]));
    let either = first_of((Header::new("x-api-key"), ClientIp::new()));
    let key = Header::new("x-api-key").guarded_by(guard.clone());
    let with = |peer| move || from(peer).header("x-api-key", "s3cret");
    assert_eq!(statuses(key.clone(), with([127, 0, 0, 1])), FREE);
    assert_eq!(statuses(key.clone(), with([203, 0, 113, 1])), [403; 3]);
    assert_eq!(statuses(key.clone(), with(CLIENT)), LIMITED);
    assert_eq!(statuses(key.clone(), || from(CLIENT)), [400; 3]);
    assert_eq!(statuses(key, Request::builder), [500; 3]);
    let denied = with([203, 0, 113, 1]);
    assert_eq!(statuses(either.guarded_by(guard), denied), [403; 3]);
}

#[test]
fn closure_or_method_exempts_requests() {
    let key = Global
        .skip_if(|head| head.uri.path() == "/health")
        .skip_method(Method::HEAD);
    assert_eq!(statuses(key.clone(), || Request::get("/health")), FREE);
    assert_eq!(statuses(key.clone(), || Request::head("/")), FREE);
    assert_eq!(statuses(key.clone(), || Request::options("/")), LIMITED);
    assert_eq!(statuses(key, || Request::get("/health/x")), LIMITED);
}

#[test]
fn unreadable_addresses_are_rejected() {
    let proxies = TrustedProxies::loopback_and_private();
    let walk = ClientIp::new().forwarded_for(proxies);
    let hops = ClientIp::new().forwarded_for(TrustedProxies::hops(1));
    let nonsense = || from([10, 0, 0, 1]).header("x-forwarded-for", "?");
    for (key, request) in [
        (walk, &nonsense as &dyn Fn() -> _),
        (hops, &|| from(CLIENT)),
    ] {
        for limit in [limit(key.clone()), limit(key).skip_unkeyed()] {
            for seen in answers(limit, request, 3) {
                assert_eq!(seen.status, 400);
                assert_eq!(
                    seen.body,
                    r#"{"type":"about:blank","title":"Bad Request","status":400}"#
                );
            }
        }
    }
    let unknown = limit(ClientIp::new()).skip_unkeyed();
    assert!(
        answers(unknown, Request::builder, 3)
            .iter()
            .all(|seen| seen.status == 200)
    );
}

/// An application may read the first value, or the text in between.
#[test]
fn repeated_or_malformed_key_is_not_a_missing_key() {
    let rejected = |statuses: Vec<ClientResponse>| statuses.iter().all(|seen| seen.status == 400);
    let twice = || {
        let request = from(CLIENT).header("x-api-key", "mine");
        request.header("x-api-key", "mine")
    };
    let key = limit(Header::new("x-api-key")).skip_unkeyed();
    assert!(rejected(answers(key, twice, 3)));
    let cookie = || from(CLIENT).header("cookie", "sid=mine; sid=mine");
    assert!(rejected(answers(
        limit(Cookie::new("sid")).skip_unkeyed(),
        cookie,
        3
    )));
    let query = || from(CLIENT).uri("/?key=mine&key=mine");
    assert!(rejected(answers(
        limit(Query::new("key")).skip_unkeyed(),
        query,
        3
    )));
    for garbled in [
        "Bearer mine, other",
        "Bearer mine other",
        "Bearer\tmine",
        "Bearer \"mine\"",
    ] {
        let request = || from(CLIENT).header("authorization", garbled);
        let unkeyed = limit(Bearer).skip_unkeyed();
        assert!(rejected(answers(unkeyed, request, 3)), "{garbled}");
        let either = limit(first_of((Bearer, ClientIp::new())));
        assert!(rejected(answers(either, request, 3)), "{garbled}");
    }
    for other in ["Basic YTpi", "Bearer", "Bearers mine", ""] {
        let request = || from(CLIENT).header("authorization", other);
        assert_eq!(
            statuses(first_of((Bearer, ClientIp::new())), request),
            LIMITED,
            "{other}"
        );
    }
}

/// HTTP/2 in hyper keeps white space at the ends of a value. Frameworks decode escapes in a cookie.
#[test]
fn secret_has_one_bucket_in_any_notation() {
    fn check<K>(key: K, spellings: [http::request::Builder; 3])
    where
        K: KeyExtractor<Request<()>> + Clone,
    {
        let mut service = limit(key).layer(hello());
        let statuses = spellings.map(|request| {
            let request = request.body(()).expect("a valid head");
            seen(&mut service, request).status.as_u16()
        });
        assert_eq!(statuses, LIMITED);
    }
    let with = |name: &str, values: [&str; 3]| values.map(|value| from(CLIENT).header(name, value));
    check(
        Header::new("x-api-key"),
        with("x-api-key", ["mine", "mine ", "\t mine"]),
    );
    check(
        Bearer,
        with(
            "authorization",
            ["Bearer mine", " bearer mine", "BEARER  mine\t"],
        ),
    );
    let cookies = ["sid=mine", "sid=\"m%69ne\"", "x=y;s%69d=%22mine%22"];
    check(Cookie::new("sid"), with("cookie", cookies));
    check(
        Query::new("key"),
        ["/?key=mine", "/?k%65y=m%69ne", "/?x&key=%6dine"].map(|uri| from(CLIENT).uri(uri)),
    );
}

#[test]
fn an_escaped_name_of_a_cookie_is_the_same_name() {
    let twice = || from(CLIENT).header("cookie", "sid=other; s%69d=mine");
    assert_eq!(statuses(Cookie::new("sid"), twice), [400; 3]);
}

fn preflight() -> http::request::Builder {
    from(CLIENT)
        .method("OPTIONS")
        .header("origin", "https://example.org")
        .header("access-control-request-method", "PUT")
}

#[test]
fn preflights_are_not_counted_by_default() {
    let count = |limit: RateLimitLayer<_, _>| answers(limit, preflight, 3);
    for seen in count(limit(ClientIp::new())) {
        assert_eq!(seen.status, 200);
        assert!(seen.has_no_rate_limit_fields(), "{seen:?}");
    }
    let counted = count(limit(ClientIp::new()).count_preflights(true));
    let statuses: Vec<_> = counted.iter().map(|seen| seen.status.as_u16()).collect();
    assert_eq!(statuses, LIMITED);
    assert_eq!(counted[0].lines("ratelimit"), ["\"api\";r=1"]);
}

#[test]
fn a_preflight_needs_no_key() {
    assert_eq!(statuses(Header::new("x-api-key"), preflight), FREE);
    let counted = limit(Header::new("x-api-key")).count_preflights(true);
    assert!(
        answers(counted, preflight, 3)
            .iter()
            .all(|seen| seen.status == 400)
    );
}

#[test]
fn requests_that_resemble_a_preflight_are_counted() {
    let bare = || from(CLIENT).method("OPTIONS");
    assert_eq!(statuses(ClientIp::new(), bare), LIMITED);
    assert_eq!(
        statuses(ClientIp::new(), || bare()
            .header("origin", "https://example.org")),
        LIMITED
    );
    assert_eq!(
        statuses(ClientIp::new(), || bare()
            .header("access-control-request-method", "PUT")),
        LIMITED
    );
    assert_eq!(
        statuses(ClientIp::new(), || preflight().method("GET")),
        LIMITED
    );
    assert_eq!(
        statuses(ClientIp::new(), || preflight().method("options")),
        LIMITED
    );
}

#[test]
fn denied_clients_are_rejected_in_preflights() {
    let key = ClientIp::new().deny_list(Networks::new(["198.51.100.0/24"]));
    assert_eq!(statuses(key, preflight), [403; 3]);
}

#[test]
fn secret_keys_have_their_own_buckets_and_are_not_shown() {
    fn check<K>(key: K, with: impl Fn(&str) -> http::request::Builder)
    where
        K: KeyExtractor<Request<()>> + Clone,
    {
        let mut service = limit(key).layer(hello());
        let mut status = |value: &str| {
            let seen = seen(&mut service, with(value).body(()).expect("a valid head"));
            assert!(!format!("{seen:?}").contains("hunter"), "{seen:?}");
            seen.status.as_u16()
        };
        let statuses = ["hunter2", "hunter2", "hunter2", "hunter3", ""].map(&mut status);
        assert_eq!(statuses, [200, 200, 429, 200, 400]);
    }
    check(Cookie::new("sid"), |value| {
        Request::get("/").header("cookie", format!("a=b; sid={value}"))
    });
    check(Bearer, |value| {
        Request::get("/").header("authorization", format!("Bearer {value}"))
    });
    check(Query::new("key"), |value| {
        Request::get(format!("/?key={value}"))
    });
    check(Header::new("x-api-key"), |value| {
        Request::get("/").header("x-api-key", value)
    });
}

#[test]
fn first_available_key_applies() {
    let key = first_of((Bearer, Header::new("x-api-key"), ClientIp::new()));
    let mut service = limit(key).layer(hello());
    let mut status = |request: http::request::Builder| {
        seen(&mut service, request.body(()).expect("a valid head"))
            .status
            .as_u16()
    };
    let user = || from(CLIENT).header("authorization", "Bearer 198.51.100.1");
    let api_key = || from(CLIENT).header("x-api-key", "198.51.100.1");
    for request in [user as fn() -> _, api_key, || from(CLIENT)] {
        assert_eq!([request(), request(), request()].map(&mut status), LIMITED);
    }
    assert_eq!(status(Request::builder()), 500);
    let two = from(CLIENT)
        .header("x-api-key", "a")
        .header("x-api-key", "b");
    assert_eq!(status(two), 400);
}
