//! A user within a team within an organization: one decision, and none of them is charged if one denies.
//!
//! Run: `cargo run --example tenants`

use std::convert::Infallible;

use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_sluice::limiter::RejectedScopes;
use tower_sluice::{Header, Key, Limiter, MemoryBackend, Policy, Quota, RateLimitLayer};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let backend = MemoryBackend::new();
    let user = Policy::new("user", Quota::per_hour(3));
    let team = Policy::new("team", Quota::per_hour(4));
    let org = Policy::new("org", Quota::per_hour(100));

    // As a layer. The innermost scope comes first.
    let limit = RateLimitLayer::new(user.clone(), Header::new("x-user"), backend.clone())
        .within(team.clone(), Header::new("x-team"))
        .within(org.clone(), Header::new("x-org"));
    let mut service = ServiceBuilder::new()
        .layer(limit)
        .service_fn(|_: Request<()>| async {
            Ok::<_, Infallible>(Response::new(Full::<bytes::Bytes>::default()))
        });
    let mut status = async |user: &str| -> Result<StatusCode, Box<dyn std::error::Error>> {
        let request = Request::builder().header("x-user", user);
        let request = request.header("x-team", "red").header("x-org", "acme");
        let response = service.ready().await?.call(request.body(())?).await?;
        Ok(response.status())
    };
    for expected in [200, 200, 200, 429] {
        assert_eq!(status("ann").await?, expected, "ann has three requests");
    }
    assert_eq!(status("bob").await?, 200);
    assert_eq!(status("bob").await?, 429, "the team has four requests");

    // Without Tower, on the same buckets. The layer reads keys from headers, and so they are secret.
    let limiter = |policy| Limiter::new(policy, backend.clone());
    let (users, teams, orgs) = (limiter(user), limiter(team), limiter(org));
    let [bob, red, acme] = ["bob", "red", "acme"].map(Key::secret);
    let scopes = [
        users.scope(&bob, 1),
        teams.scope(&red, 1),
        orgs.scope(&acme, 5),
    ];
    match Limiter::try_acquire_all(scopes).await {
        Err(rejected @ RejectedScopes::Denied { .. }) => assert_eq!(rejected.denied_by(), ["team"]),
        other => panic!("the team allows no more: {other:?}"),
    }
    assert_eq!(users.peek(&bob).await?.remaining(), 2, "not charged");
    assert_eq!(orgs.peek(&acme).await?.remaining(), 96, "not charged");
    println!("four requests were allowed, and the denied requests charged no scope");
    Ok(())
}
