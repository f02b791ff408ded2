//! The header fields of semaphores.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use tower::{Layer, Service};
use tower_sluice::key::Header;
use tower_sluice::response::HeaderFormat::{self, Draft06, Draft07, Draft11};
use tower_sluice::response::HeaderFormats;
use tower_sluice::{MemorySemaphore, SemaphoreLayer, SemaphorePolicy};

use super::{DELTA, EPOCH, reported};
use crate::support::{USER, from, hello, now, seen};

fn bounded(
    formats: impl Into<HeaderFormats>,
) -> impl Service<
    Request<()>,
    Response = Response<impl http_body::Body<Data = Bytes, Error: std::fmt::Debug>>,
    Error = Infallible,
> {
    let limit = SemaphoreLayer::new(
        SemaphorePolicy::new("in-flight", 1),
        Header::new(USER),
        MemorySemaphore::new(),
    );
    limit.headers(formats).layer(hello())
}

#[test]
fn concurrency_fields_exist_in_draft_11_only() {
    let fields = [
        ("ratelimit", "\"in-flight\";r=0"),
        (
            "ratelimit-policy",
            "\"in-flight\";q=1;qu=\"concurrent-requests\"",
        ),
    ];
    let check = |formats: HeaderFormats, fields: &[(&str, &str)]| {
        let mut service = bounded(formats);
        let first = now(&mut service, from("ann")).expect("no error");
        let rejected = seen(&mut service, from("ann"));
        assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(rejected.lines("retry-after"), ["1"]);
        let names = |fields: &[(&str, &str)]| {
            let names = fields.iter().map(|(name, _)| (*name).to_owned());
            names.collect::<Vec<_>>()
        };
        assert_eq!(names(&reported(&rejected)), names(fields), "{formats:?}");
        drop(first);
        assert_eq!(reported(&seen(&mut service, from("ann"))), fields);
    };
    check(Draft11.into(), &fields);
    check([Draft11, EPOCH].into(), &fields);
    for format in [Draft07, Draft06, EPOCH, DELTA, HeaderFormat::None] {
        check(format.into(), &[]);
    }
}
