//! The partition key of draft 11.

use std::time::Duration;

use tower::Layer;
use tower_sluice::key::Header;
use tower_sluice::response::HeaderFormat::{self, Draft06, Draft07};
use tower_sluice::{
    FailurePolicy, Global, MemorySemaphore, RateLimitLayer, SemaphoreLayer, SemaphorePolicy,
};

use super::{DELTA, EPOCH};
use crate::remote::Remote;
use crate::support::{USER, ask, from, hello, memory, now, seen, two_a_minute};

const SECRET: &str = "a secret of all servers";

fn pk(line: &str) -> &str {
    let (_, pk) = line.split_once(";pk=:").expect("a partition key");
    pk.strip_suffix(':').expect("a byte sequence")
}

#[test]
fn partition_key_differs_by_client_and_hides_the_key() {
    let limit = |secret: &str| {
        RateLimitLayer::new(two_a_minute(), Header::new(USER), memory())
            .cost(2)
            .partition_key(secret)
    };
    let mut service = limit(SECRET).layer(hello());
    let ann = seen(&mut service, from("ann"));
    let bob = seen(&mut service, from("bob"));
    let again = seen(&mut service, from("ann"));
    assert_eq!((ann.status.as_u16(), again.status.as_u16()), (200, 429));
    let limits = [&ann, &again].map(|seen| seen.lines("ratelimit")[0].to_owned());
    let policies = [&ann, &again].map(|seen| seen.lines("ratelimit-policy")[0].to_owned());
    let own = pk(&limits[0]);
    assert_eq!(limits[0], format!("\"api\";r=0;t=30;pk=:{own}:"));
    assert_eq!(limits[1], format!("\"api\";r=0;t=60;pk=:{own}:"));
    for policy in &policies {
        assert_eq!(*policy, format!("\"api\";q=2;w=60;pk=:{own}:"));
    }
    assert_ne!(pk(bob.lines("ratelimit")[0]), own);
    assert_eq!(own.len(), 24, "16 bytes");

    let elsewhere = seen(&mut limit(SECRET).layer(hello()), from("ann"));
    assert_eq!(pk(elsewhere.lines("ratelimit")[0]), own, "on any server");
    let other = limit("another secret of all servers");
    let other = seen(&mut other.layer(hello()), from("ann"));
    assert_ne!(pk(other.lines("ratelimit")[0]), own);
}

#[test]
fn partition_key_is_a_parameter_of_draft_11_and_of_permits() {
    let limit = RateLimitLayer::new(two_a_minute(), Global, memory()).partition_key(SECRET);
    let seen_in = |format| seen(&mut limit.clone().headers(format).layer(hello()), from("x"));
    for format in [Draft07, Draft06, EPOCH, DELTA, HeaderFormat::None] {
        assert!(!format!("{:?}", seen_in(format)).contains("pk="));
    }
    let limit = SemaphoreLayer::new(
        SemaphorePolicy::new("in-flight", 1),
        Header::new(USER),
        MemorySemaphore::new(),
    );
    let mut service = limit.partition_key(SECRET).layer(hello());
    let first = now(&mut service, from("ann")).expect("no error");
    let line = first.headers()["ratelimit"].to_str().expect("ASCII");
    let own = pk(line).to_owned();
    let rejected = seen(&mut service, from("ann"));
    assert_eq!(pk(rejected.lines("ratelimit")[0]), own);
    assert_eq!(pk(rejected.lines("ratelimit-policy")[0]), own);
}

#[tokio::test]
async fn partition_key_is_written_on_every_path() {
    let limit = |cost: u64| {
        RateLimitLayer::new(two_a_minute(), Header::new(USER), Remote::delayed())
            .on_backend_error(FailurePolicy::FailClosed)
            .partition_key(SECRET)
            .cost(cost)
    };
    let mut later = limit(2).layer(hello());
    let allowed = ask(&mut later, from("ann")).await;
    let rejected = ask(&mut later, from("ann")).await;
    let mut waits = limit(2).wait(Duration::from_secs(1)).layer(hello());
    let waited = ask(&mut waits, from("ann")).await;
    let too_late = ask(&mut waits, from("ann")).await;
    // The outer layer writes the fields of the inner layer, which charges the rest.
    let inner = limit(2).headers(HeaderFormat::None);
    let backend = Remote::delayed();
    let outer = RateLimitLayer::new(two_a_minute(), Header::new(USER), backend)
        .on_backend_error(FailurePolicy::FailClosed)
        .partition_key(SECRET);
    let joined = ask(&mut outer.layer(inner.layer(hello())), from("ann")).await;
    let own = pk(allowed.lines("ratelimit")[0]);
    for (seen, status) in [
        (&allowed, 200),
        (&rejected, 429),
        (&waited, 200),
        (&too_late, 429),
        (&joined, 200),
    ] {
        assert_eq!(seen.status.as_u16(), status);
        assert_eq!(pk(seen.lines("ratelimit")[0]), own);
        assert_eq!(pk(seen.lines("ratelimit-policy")[0]), own);
    }
}

#[test]
fn partition_key_secret_is_validated() {
    let limit = || RateLimitLayer::new(two_a_minute(), Global, memory());
    let short = limit().try_partition_key("secret").err();
    let why = "invalid secret of 6 bytes for partition keys: use at least 16 random bytes, such as the output of \
               `openssl rand -hex 16`";
    assert_eq!(short.expect("an error").to_string(), why);
    assert!(limit().try_partition_key(SECRET).is_ok());
    let panics = std::panic::catch_unwind(|| limit().partition_key("secret"));
    assert!(panics.is_err());
}
