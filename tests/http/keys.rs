//! The key of a request: the client behind a proxy, and keys of other kinds.

use http::Method;

use crate::playground::Playground;

/// A quota that one request uses up.
const ONCE: [&str; 2] = ["--quota", "1/day"];

/// The statuses of requests with these header fields, in order.
async fn statuses(arguments: &[&str], requests: &[&[(&'static str, &str)]]) -> Vec<u16> {
    let playground = Playground::start(&[&ONCE, arguments].concat()).await;
    let mut statuses = Vec::new();
    for fields in requests {
        let mut request = playground.request(Method::GET, "/");
        for (name, value) in *fields {
            let value = value.parse().expect("a value");
            request.headers_mut().append(*name, value);
        }
        statuses.push(playground.send(request).await.status.as_u16());
    }
    statuses
}

const XFF: &str = "x-forwarded-for";

#[tokio::test]
async fn no_header_is_read_unless_a_proxy_is_trusted() {
    let claims: [&[_]; 3] = [
        &[],
        &[(XFF, "203.0.113.7")],
        &[("forwarded", "for=203.0.113.8")],
    ];
    assert_eq!(statuses(&[], &claims).await, [200, 429, 429]);
    let elsewhere = [
        "--trusted-proxy",
        "10.0.0.0/8",
        "--trusted-proxy",
        "127.0.0.2",
    ];
    assert_eq!(statuses(&elsewhere, &claims).await, [200, 429, 429]);
}

#[tokio::test]
async fn a_trusted_proxy_names_its_clients() {
    let requests: [&[_]; 8] = [
        &[(XFF, "203.0.113.7")],
        &[(XFF, "1.2.3.4, 203.0.113.7")],
        &[(XFF, "1.2.3.4"), (XFF, "203.0.113.7, 10.1.1.1")],
        &[(XFF, "203.0.113.8")],
        &[(XFF, "2001:db8::1")],
        &[(XFF, "2001:db8::ffff")],
        &[(XFF, "203.0.113.9, ?")],
        &[("forwarded", "for=203.0.113.10")],
    ];
    let proxies = [
        "--trusted-proxy",
        "127.0.0.0/8",
        "--trusted-proxy",
        "10.0.0.0/8",
    ];
    let expected = [200, 429, 429, 200, 200, 429, 400, 200];
    assert_eq!(statuses(&proxies, &requests).await, expected);
}

#[tokio::test]
async fn only_the_configured_header_is_read() {
    let trusted = ["--trusted-proxy", "127.0.0.1", "--forwarded-header"];
    let with = |name| [&trusted[..], &[name]].concat();
    let requests: [&[_]; 4] = [
        &[(
            "forwarded",
            "for=1.2.3.4;proto=https, for=\"[2001:db8::1]:4711\"",
        )],
        &[("forwarded", "For=\"[2001:db8::2]\"")],
        &[(XFF, "203.0.113.7")],
        &[("forwarded", "for=203.0.113.7:80")],
    ];
    assert_eq!(
        statuses(&with("Forwarded"), &requests).await,
        [200, 429, 200, 400]
    );
    let requests: [&[_]; 4] = [
        &[("x-real-ip", "203.0.113.7")],
        &[("x-real-ip", "203.0.113.7"), (XFF, "1.2.3.4")],
        &[("x-real-ip", "203.0.113.8")],
        &[("x-real-ip", "203.0.113.8, 203.0.113.9")],
    ];
    assert_eq!(
        statuses(&with("x-real-ip"), &requests).await,
        [200, 429, 200, 400]
    );
}

#[tokio::test]
async fn key_can_be_a_cookie_or_a_token() {
    let requests: [&[_]; 5] = [
        &[("cookie", "a=b; sid=hunter2")],
        &[("cookie", "sid=hunter2"), ("cookie", "a=c")],
        &[("cookie", "sid=hunter3")],
        &[],
        &[("cookie", "sid=a; sid=b")],
    ];
    let expected = [200, 429, 200, 400, 400];
    assert_eq!(
        statuses(&["--key", "cookie:sid"], &requests).await,
        expected
    );
    let requests: [&[_]; 5] = [
        &[("authorization", "Bearer hunter2")],
        &[("authorization", "bearer hunter2")],
        &[("authorization", "Bearer hunter3")],
        &[],
        &[("authorization", "Basic aHVudGVyMg==")],
    ];
    assert_eq!(statuses(&["--key", "bearer"], &requests).await, expected);
}

#[tokio::test]
async fn key_can_be_a_part_of_the_target() {
    let query = Playground::start(&[&ONCE[..], &["--key", "query:tenant"]].concat()).await;
    let paths = [
        "/?tenant=a",
        "/?x&tenant=%61",
        "/?tenant=b",
        "/",
        "/?tenant=c&tenant=d",
    ];
    assert_eq!(query.statuses(&paths).await, [200, 429, 200, 400, 400]);
    let path = Playground::start(&[&ONCE[..], &["--key", "path"]].concat()).await;
    let paths = ["/", "/?x", "/status/204", "/status/404", "/status/204"];
    assert_eq!(path.statuses(&paths).await, [200, 429, 204, 404, 429]);
}

#[tokio::test]
async fn outer_scope_is_decided_with_the_user_and_charged_with_it_or_not_at_all() {
    let arguments = [
        "--quota",
        "2/day",
        "--key",
        "header:x-user",
        "--name",
        "user",
    ];
    let within = ["--within", "org=fixed-window:3/day@header:x-org"];
    let playground = Playground::start(&[&arguments[..], &within].concat()).await;
    let send = async |user: &str| {
        let mut request = playground.request(Method::GET, "/");
        for (name, value) in [("x-user", user), ("x-org", "acme")] {
            request
                .headers_mut()
                .insert(name, value.parse().expect("a value"));
        }
        playground.send(request).await
    };
    for (user, status) in [("ann", 200), ("ann", 200), ("ann", 429), ("bob", 200)] {
        assert_eq!(send(user).await.status, status, "{user}");
    }
    let denied = send("bob").await;
    assert_eq!(denied.status, 429);
    assert!(
        denied.body.contains(r#""violated-policies":["org"]"#),
        "{}",
        denied.body
    );
}
