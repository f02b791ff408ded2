//! A server on a Unix socket behind a proxy: connections have no address, and the header has the client's.

use std::net::SocketAddr;

use axum::Router;
use axum::routing::get;
use tower_sluice::key::{KeyExtractor, Networks, OnMalformed, PeerAddr, TrustedProxies};
use tower_sluice::{ClientIp, PeerIp, RateLimitLayer};

use crate::support::{memory, two_a_minute};
use crate::unix_server::UnixServer;

const XFF: &str = "x-forwarded-for";

fn app<K>(key: K) -> Router
where
    K: KeyExtractor<http::Request<axum::body::Body>> + Clone + Send + Sync + 'static,
{
    let limit = RateLimitLayer::new(two_a_minute(), key, memory());
    Router::new()
        .route("/", get(|| async { "ok" }))
        .layer(limit)
}

async fn statuses<const N: usize>(app: Router, field: &str, values: [&str; N]) -> [u16; N] {
    let server = UnixServer::start(app);
    let mut statuses = [0; N];
    for (status, value) in statuses.iter_mut().zip(values) {
        *status = server.status(field, value).await;
    }
    statuses
}

fn hops(hops: usize) -> ClientIp {
    ClientIp::new().forwarded_for(TrustedProxies::hops(hops))
}

#[tokio::test]
async fn hops_need_no_address_of_the_peer() {
    let values = [
        "203.0.113.7",
        "1.2.3.4, 203.0.113.7",
        "5.6.7.8, 203.0.113.7",
        "203.0.113.8",
        "",
        "203.0.113.8, ?",
    ];
    let expected = [200, 200, 429, 200, 400, 400];
    assert_eq!(statuses(app(hops(1)), XFF, values).await, expected);
    let two = values.map(|value| format!("{value}, 10.0.0.1"));
    let two = two.each_ref().map(String::as_str);
    assert_eq!(statuses(app(hops(2)), XFF, two).await, expected);

    let client = ClientIp::new().forwarded(TrustedProxies::hops(1));
    let values = [
        "for=203.0.113.7",
        "for=\"203.0.113.7:_p\"",
        "for=203.0.113.7",
    ];
    assert_eq!(
        statuses(app(client), "forwarded", values).await,
        [200, 200, 429]
    );
}

/// Otherwise all clients of the socket would share one bucket.
#[tokio::test]
async fn a_proxy_without_an_address_cannot_stand_in_for_its_client() {
    let nearest = |count| hops(count).on_malformed(OnMalformed::Nearest);
    let values = ["unknown", "_hidden", "?", "203.0.113.7, unknown"];
    assert_eq!(statuses(app(hops(1)), XFF, values).await, [400; 4]);
    assert_eq!(statuses(app(nearest(1)), XFF, values).await, [400; 4]);
    // The second proxy has an address, which the first one wrote.
    let values = ["unknown, 10.0.0.2", "?, 10.0.0.2", "unknown, 10.0.0.2"];
    assert_eq!(
        statuses(app(nearest(2)), XFF, values).await,
        [200, 200, 429]
    );
}

#[tokio::test]
async fn without_hops_every_request_is_rejected_with_500() {
    let networks = Networks::loopback_and_private;
    let values = ["203.0.113.7", ""];
    for key in [
        ClientIp::new(),
        hops(0),
        ClientIp::new().forwarded_for(networks()),
        ClientIp::new().forwarded(networks()),
        ClientIp::new().header(http::HeaderName::from_static("x-real-ip"), networks()),
    ] {
        assert_eq!(statuses(app(key), XFF, values).await, [500; 2]);
    }
    assert_eq!(statuses(app(PeerIp::new()), XFF, values).await, [500; 2]);
}

#[tokio::test]
async fn inserted_peer_address_replaces_a_missing_one() {
    let field = http::HeaderName::from_static("x-real-ip");
    let client = ClientIp::new().header(field.clone(), Networks::loopback_and_private());
    let proxy = PeerAddr(SocketAddr::from(([127, 0, 0, 1], 0)));
    let app = app(client).layer(axum::Extension(proxy));
    let values = ["203.0.113.7", "203.0.113.7", "203.0.113.7", "203.0.113.8"];
    assert_eq!(
        statuses(app, field.as_str(), values).await,
        [200, 200, 429, 200]
    );
}
