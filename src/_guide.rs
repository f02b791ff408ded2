#![doc = include_str!("docs/guide/index.md")]

// A page with examples is shown with the features that they need.

/// Getting started.
///
#[cfg_attr(feature = "axum", doc = include_str!("docs/guide/getting_started.md"))]
pub mod getting_started {}

/// Choose an algorithm.
///
#[doc = include_str!("docs/guide/algorithms.md")]
#[doc = include_str!("docs/guide/algorithms.svg")]
#[doc = include_str!("docs/guide/algorithms_rest.md")]
pub mod algorithms {}

/// Choose a key, also behind a proxy.
///
#[cfg_attr(feature = "axum", doc = include_str!("docs/guide/keys.md"))]
pub mod keys {}

/// Charge different costs, and settle them.
///
#[cfg_attr(feature = "axum", doc = include_str!("docs/guide/costs.md"))]
pub mod costs {}

/// Have several quotas, or tiers of clients.
///
#[cfg_attr(feature = "axum", doc = include_str!("docs/guide/quotas_and_tiers.md"))]
pub mod quotas_and_tiers {}

/// Wait for tokens, also in a client.
///
#[cfg_attr(feature = "axum", doc = include_str!("docs/guide/waiting.md"))]
pub mod waiting {}

/// Limit what is in flight.
///
#[cfg_attr(feature = "axum", doc = include_str!("docs/guide/concurrency.md"))]
pub mod concurrency {}

/// Share limits in a fleet.
///
#[cfg_attr(all(feature = "axum", feature = "redis"), doc = include_str!("docs/guide/fleet.md"))]
pub mod fleet {}

/// Decide what happens when the backend fails.
///
#[cfg_attr(all(feature = "axum", feature = "redis"), doc = include_str!("docs/guide/failures.md"))]
pub mod failures {}

/// Choose what clients see.
///
#[cfg_attr(feature = "axum", doc = include_str!("docs/guide/clients.md"))]
pub mod clients {}

/// Block a key, and limit failed logins.
///
#[cfg_attr(feature = "axum", doc = include_str!("docs/guide/blocks.md"))]
pub mod blocks {}

/// Try a limit, and switch it off.
///
#[doc = include_str!("docs/guide/rollout.md")]
pub mod rollout {}

/// Watch limits.
///
#[cfg_attr(
    all(feature = "axum", feature = "metrics", feature = "redis"),
    doc = include_str!("docs/guide/monitoring.md")
)]
pub mod monitoring {}

/// Test your application without sleeping.
///
#[cfg_attr(feature = "axum", doc = include_str!("docs/guide/testing.md"))]
pub mod testing {}

/// Move from another crate.
///
#[cfg_attr(feature = "axum", doc = include_str!("docs/guide/migration.md"))]
pub mod migration {}

/// Write a part of your own.
///
#[cfg_attr(feature = "axum", doc = include_str!("docs/guide/extending.md"))]
pub mod extending {}
