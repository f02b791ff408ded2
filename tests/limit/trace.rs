//! What the log is told of refusals.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use http::Request;
use tower::Layer;
use tower_sluice::key::Header;
use tower_sluice::{PeerIp, RateLimitLayer};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::support::{hello, memory, seen, two_a_minute};

/// Keeps every event as a line.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0 += &format!(" {field}={value:?}");
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("tower_sluice")
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.lock().expect("no panic").push(line.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[test]
fn a_server_that_is_set_up_wrongly_is_told_once_with_the_way_out() {
    let lines = Lines::default();
    tracing::subscriber::with_default(lines.clone(), || {
        let mut service =
            RateLimitLayer::new(two_a_minute(), PeerIp::new(), memory()).layer(hello());
        for _ in 0..3 {
            assert_eq!(seen(&mut service, Request::new(())).status, 500);
        }
    });
    let lines = lines.0.lock().expect("no panic");
    let at = |level: &str| lines.iter().filter(|line| line.starts_with(level)).count();
    // Another test of this process may have been told first.
    assert!(
        at("ERROR") <= 1 && at("ERROR") + at("DEBUG") == 3,
        "{lines:?}"
    );
    assert!(
        lines
            .iter()
            .all(|line| line.contains("into_make_service_with_connect_info")),
        "{lines:?}"
    );
}

#[test]
fn refusals_are_told_without_their_keys() {
    let lines = Lines::default();
    tracing::subscriber::with_default(lines.clone(), || {
        let limit = RateLimitLayer::new(two_a_minute(), Header::new("x-api-key"), memory());
        let mut service = limit.layer(hello());
        let request = || {
            Request::builder()
                .header("x-api-key", "hunter2")
                .body(())
                .expect("valid")
        };
        for _ in 0..3 {
            seen(&mut service, request());
        }
        seen(&mut service, Request::new(()));
    });
    let lines = lines.0.lock().expect("no panic");
    let expected = [
        "DEBUG message=request refused: over the limit policy=\"api\"",
        "DEBUG message=request refused: it has no key error=header `x-api-key` is missing",
    ];
    assert_eq!(*lines, expected);
}
