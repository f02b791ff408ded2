//! The weight of a request, and the capacity of its key.

use http::{Method, Request, StatusCode};
use tower::Layer;
use tower_sluice::concurrency::SemaphoreLayer;
use tower_sluice::{Global, RouteCosts, SemaphorePolicy};

use crate::responses::{PROBLEM, rejected};
use crate::services::{endless, memory, two_each};
use crate::support::{from, now};

#[test]
fn weight_above_the_capacity_is_denied_for_good() {
    let memory = memory();
    let weigh = |weight| two_each(&memory).weight(weight).layer(endless());
    let seen = rejected(&mut weigh(3), from("ann"));
    assert_eq!(seen.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(seen.lines("retry-after"), [""; 0]);
    assert_eq!(seen.lines("ratelimit"), ["\"exports\";r=2"]);

    let _two = now(&mut weigh(2), from("ann")).expect("no error");
    assert_eq!(rejected(&mut weigh(1), from("ann")).status, 429);
    let nothing = now(&mut weigh(0), from("ann")).expect("no error");
    assert_eq!(nothing.status(), 200);
    assert_eq!(memory.held(), 2);
}

#[test]
fn weight_above_the_global_capacity_is_429() {
    let limit = SemaphoreLayer::new(SemaphorePolicy::new("exports", 2), Global, memory()).weight(3);
    let mut service = limit.layer(endless());
    let seen = rejected(&mut service, from("ann"));
    assert_eq!(seen.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(seen.lines("retry-after"), [""; 0]);
    assert_eq!(seen.body, PROBLEM);

    let mut request = from("ann");
    *request.method_mut() = Method::POST;
    let grpc = "application/grpc".parse().expect("a value");
    request.headers_mut().insert("content-type", grpc);
    assert_eq!(rejected(&mut service, request).lines("grpc-status"), ["8"]);
}

#[test]
fn weight_comes_from_a_closure_or_route_costs() {
    let memory = memory();
    let by_header = |head: &tower_sluice::Head<'_>| head.headers.len() as u64;
    let mut service = two_each(&memory).weight_fn(by_header).layer(endless());
    let mut heavy = from("ann");
    heavy
        .headers_mut()
        .insert("x-other", "1".parse().expect("a value"));
    let held = now(&mut service, heavy).expect("no error");
    assert_eq!(memory.held(), 2);
    drop(held);

    let table = RouteCosts::new().prefix("/large", 2);
    let mut service = two_each(&memory).weight(table).layer(endless());
    let mut large = from("ann");
    *large.uri_mut() = "/large".parse().expect("a path");
    let _held = now(&mut service, large).expect("no error");
    assert_eq!(memory.held(), 2);
}

#[test]
fn policy_fn_sets_the_capacity_of_each_key() {
    let memory = memory();
    let capacity = |request: &mut Request<()>, capacity: &str| {
        let capacity = capacity.parse().expect("a value");
        request.headers_mut().insert("x-capacity", capacity);
    };
    let base = SemaphorePolicy::new("exports", 1);
    let mut service = two_each(&memory)
        .policy_fn(move |head, key| {
            assert_eq!(key.as_bytes(), b"ann");
            let said = head
                .headers
                .get("x-capacity")
                .and_then(|said| said.to_str().ok());
            let said = said.and_then(|said| said.parse().ok()).unwrap_or(0);
            base.clone()
                .try_capacity(said)
                .unwrap_or_else(|_| base.clone())
        })
        .layer(endless());
    let mut ask = |said: &str| {
        let mut request = from("ann");
        capacity(&mut request, said);
        now(&mut service, request).expect("no error")
    };
    let three: Vec<_> = (0..3).map(|_| ask("3")).collect();
    assert!(three.iter().all(|response| response.status() == 200));
    // Lowered: no permit is revoked, and no request is allowed until enough are released.
    assert_eq!(ask("2").status(), 429);
    assert_eq!(memory.held(), 3);
    assert_eq!(ask("nonsense").status(), 429);
    // Raised: in effect at once.
    let fourth = ask("4");
    assert_eq!(fourth.status(), 200);
    drop((three, fourth));
    assert_eq!(memory.held(), 0);
    assert_eq!(ask("nonsense").status(), 200);
}
