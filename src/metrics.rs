//! Metrics for any recorder of the [`metrics`](https://docs.rs/metrics) facade (feature `metrics`).
//!
//! Guide: [watch limits](crate::_guide::monitoring).
//!
//! Labels are the names of policies and semaphores, never keys.
//!
//! | name | kind | labels | value |
//! |---|---|---|---|
//! | `sluice_decisions_total` | counter | `policy`, `outcome` | decisions of policies |
//! | `sluice_wait_seconds` | histogram | `policy` | waits of requests that were allowed after a wait |
//! | `sluice_unkeyed_total` | counter | | requests without a key that were rejected, or allowed by a shadow policy |
//! | `sluice_permits_total` | counter | `permits`, `outcome` | decisions of semaphore layers |
//! | `sluice_permits_in_use` | gauge | `permits` | permits that this process holds, by weight |
//! | `sluice_permit_wait_seconds` | histogram | `permits` | waits for permits that were acquired after a wait |
//! | `sluice_permits_lost_total` | counter | `permits` | permits whose lease could not be renewed |
//! | `sluice_evictions_total` | counter | | keys that a memory backend removed before their time, to make room |
//! | `sluice_lost_settlements_total` | counter | | background tasks that failed: settlements, cancels and permit releases |
//! | `sluice_backend_seconds` | histogram | `backend` | time to the answer of Redis, by batch |
//! | `sluice_backend_failures_total` | counter | `backend`, `kind` | operations without an answer: `timeout`, `unreachable`, `circuit_open`, .. |
//! | `sluice_open_circuits` | gauge | | backends whose circuit is open |
//!
//! Values of `outcome`:
//!
//! | outcome | decision |
//! |---|---|
//! | `allowed`, `denied` | the limit allowed or denied the request |
//! | `shadow` | a shadow policy denied the request, which was allowed |
//! | `passed`, `unavailable` | the backend failed, and the failure policy allowed or rejected the request |
//!
//! - Of nested layers with one policy, each layer that asks its backend counts.
//! - Install the recorder before permits are acquired. The gauge lacks earlier permits.
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
