//! [`Charge`]: the tokens that a request was charged. It can be settled when the actual cost is known.
//!
//! Guide: [costs](crate::_guide::costs).
//!
//! A request is charged its cost as an estimate, before it is served. One settlement can correct the estimate:
//!
//! | settlement | final charge |
//! |---|---|
//! | none | the estimate |
//! | [`charge(extra)`](Charge::charge) | the estimate plus `extra` |
//! | [`refund(n)`](Charge::refund) | the estimate minus `n` |
//! | [`settle(actual)`](Charge::settle) | `actual` |
//! | [`cancel()`](Charge::cancel) | 0 |
//!
//! - The first settlement on any clone takes effect. A later one returns a [`SettleError`].
//! - An excess over the estimate is always charged, even above the limit. The debt of a key is at most twice the limit.
//! - A difference below the estimate is refunded. A window refunds it to the window that was charged.
//!
//! ```
//! use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let limiter = Limiter::new(Policy::new("llm", Quota::per_hour(100)), MemoryBackend::new());
//! let ann = Key::from("ann");
//! let charge = limiter.try_acquire(&ann, 30).await?;
//! assert_eq!(limiter.peek(&ann).await?.remaining(), 70);
//! charge.settle(45).await?; // the actual cost
//! assert_eq!(limiter.peek(&ann).await?.remaining(), 55);
//! assert!(charge.cancel().await.is_err(), "the charge is settled");
//! # Ok(()) }
//! ```
//!
//! An axum handler takes the charge as an argument. A layer can settle charges by the response, with
//! [`on_response`](crate::RateLimitLayer::on_response):
//!
//! ```
//! use axum::Router;
//! use axum::routing::post;
//! use tower_sluice::{Charge, MemoryBackend, PeerIp, Policy, Quota, RateLimitLayer};
//!
//! async fn ask(charge: Charge, question: String) -> String {
//!     let (answer, tokens) = (question.to_uppercase(), 120);
//!     charge.settle(tokens);
//!     answer
//! }
//!
//! let policy = Policy::new("tokens", Quota::per_minute(10_000));
//! let limit = RateLimitLayer::new(policy, PeerIp::new(), MemoryBackend::new())
//!     .cost(500) // an estimate
//!     .on_response(|parts, charge| {
//!         if parts.status.is_server_error() {
//!             charge.cancel();
//!         }
//!     });
//! let app: Router = Router::new().route("/ask", post(ask)).layer(limit);
//! ```
//!
//! A cost that is known while a stream passes is counted by a [`Meter`], which settles the charge when the stream ends.
//!
//! In other services the charge is in the request's extensions: `request.extensions().get::<Charge>()`.
//!
//! # Background work
//!
//! A settlement starts with the call, so a response does not wait for it. A memory backend completes it within the
//! call. A remote backend completes it in a background task, on the Tokio runtime of the caller. A call on a thread
//! without a runtime fails. Awaiting the [`Settlement`] returns the outcome. The backend's
//! [`BackendContext`](crate::backend::BackendContext) counts failed background tasks.
#![cfg_attr(feature = "axum", doc = include_str!("../../docs/settlements.md"))]

mod error;
mod handle;
mod meter;
mod open;
mod settle;
mod settlement;

pub use self::error::SettleError;
pub use self::handle::Charge;
pub use self::meter::{Meter, MeteredBody};
pub(crate) use self::settle::Settle;
pub use self::settlement::Settlement;
