//! The playground's totals, and the route that blocks a key.

use http::{Method, StatusCode};

use crate::playground::{Answer, Playground};

async fn ask(playground: &Playground, user: &str) -> Answer {
    let mut request = playground.request(Method::GET, "/");
    request
        .headers_mut()
        .insert("x-user", user.parse().expect("a value"));
    playground.send(request).await
}

async fn block(playground: &Playground, path: &str, authorization: Option<&str>) -> StatusCode {
    let mut request = playground.request(Method::POST, path);
    if let Some(value) = authorization {
        request
            .headers_mut()
            .insert("authorization", value.parse().expect("a value"));
    }
    playground.send(request).await.status
}

#[tokio::test]
async fn total_of_the_playground_never_comes_back() {
    let playground = Playground::start(&["--quota", "total:2"]).await;
    for left in [1, 0] {
        let answer = playground.get("/").await;
        assert_eq!(answer.field("ratelimit-policy"), Some("\"default\";q=2"));
        assert_eq!(
            answer.field("ratelimit"),
            Some(&*format!("\"default\";r={left}"))
        );
    }
    let rejected = playground.get("/").await;
    assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(rejected.field("retry-after"), None);
}

#[tokio::test]
async fn holder_of_the_token_blocks_a_key() {
    let playground = Playground::start(&[
        "--quota",
        "100/minute",
        "--key",
        "header:x-user",
        "--admin-token",
        "s3cret",
    ])
    .await;
    for wrong in [
        None,
        Some("Bearer s3cre"),
        Some("Bearer s3crets"),
        Some("Bearer "),
        Some("s3cret"),
    ] {
        let status = block(&playground, "/block/ann/3600", wrong).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{wrong:?}");
    }
    assert_eq!(ask(&playground, "ann").await.status, StatusCode::OK);
    let token = Some("Bearer s3cret");
    let status = block(&playground, "/block/ann/3600", token).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let rejected = ask(&playground, "ann").await;
    assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
    assert!((3_590..=3_600).contains(&rejected.retry_after()));
    assert!(!rejected.body.contains("blocked"), "{}", rejected.body);
    assert_eq!(ask(&playground, "bob").await.status, StatusCode::OK);
    assert_eq!(
        block(&playground, "/block/ann/0", token).await,
        StatusCode::NO_CONTENT
    );
    assert_eq!(ask(&playground, "ann").await.status, StatusCode::OK);
    assert_eq!(
        block(&playground, "/block/ann/soon", token).await,
        StatusCode::BAD_REQUEST
    );
}

#[tokio::test]
async fn without_a_token_there_is_no_route_that_blocks() {
    let playground = Playground::start(&[]).await;
    let status = block(&playground, "/block/ann/3600", Some("Bearer ")).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}
