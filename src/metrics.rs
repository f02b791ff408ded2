//! What is counted, for any recorder of the [`metrics`](https://docs.rs/metrics) facade (feature `metrics`). Labels are
//! the names of policies and permits, never keys.
//!
//! | name | kind | labels | |
//! |---|---|---|---|
//! | `sluice_decisions_total` | counter | `policy`, `outcome` | of a policy: `allowed`, `denied`, `shadow` (would have been denied); without an answer of the backend `passed` or `unavailable` |
//! | `sluice_wait_seconds` | histogram | `policy` | how long requests waited that were allowed after a wait |
//! | `sluice_unkeyed_total` | counter | | requests without a key, which were rejected unless the policy is a shadow |
//! | `sluice_permits_total` | counter | `permits`, `outcome` | of a semaphore's layer: `allowed`, `denied`, `passed`, `unavailable` |
//! | `sluice_permits_in_use` | gauge | `permits` | what this process holds, by weight |
//! | `sluice_permit_wait_seconds` | histogram | `permits` | how long permits were waited for that were not there at once |
//! | `sluice_permits_lost_total` | counter | `permits` | leases that could not be renewed |
//! | `sluice_evictions_total` | counter | | keys that a memory backend forgot before their time, to make room |
//! | `sluice_lost_settlements_total` | counter | | settlements, reservations and permits given back, that were not written down |
//! | `sluice_backend_seconds` | histogram | `backend` | how long Redis took, a batch of operations at a time |
//! | `sluice_backend_failures_total` | counter | `backend`, `kind` | operations without an answer: `timeout`, `unreachable`, `circuit_open`, .. |
//! | `sluice_open_circuits` | gauge | | backends that are left alone after failures |
//!
//! Of layers of one policy within each other, each one counts that had to ask. Permits that were taken before the
//! recorder was installed are missing in the gauge: install it first.
//!
//! ```
//! use metrics_exporter_prometheus::PrometheusBuilder;
//! use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota};
//!
//! let prometheus = PrometheusBuilder::new().install_recorder()?;
//! tower_sluice::metrics::describe();
//!
//! let limiter = Limiter::new(Policy::new("mails", Quota::per_hour(1)), MemoryBackend::new());
//! for _ in 0..3 {
//!     limiter.check_now(&Key::from("ann"), 1);
//! }
//! assert!(prometheus.render().contains(r#"sluice_decisions_total{policy="mails",outcome="denied"} 2"#));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `examples/prometheus.rs` serves them beside an axum application.

pub use crate::telemetry::describe;
