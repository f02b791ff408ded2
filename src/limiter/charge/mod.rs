//! [`Charge`]: what a request was charged, to be settled when it is known what it really cost.
//!
//! | | charges in the end |
//! |---|---|
//! | nothing at all | the estimate |
//! | [`charge(extra)`](Charge::charge) | the estimate and `extra` |
//! | [`refund(n)`](Charge::refund) | the estimate less `n` |
//! | [`settle(actual)`](Charge::settle) | `actual` |
//! | [`cancel()`](Charge::cancel) | nothing |
//!
//! One of them takes effect, the first that is called on any clone; whatever comes later is told so. More than the
//! estimate is charged without asking, as a debt of up to twice the limit; less is given back, windows taking it back
//! from the window that was charged.
//!
//! ```
//! use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let limiter = Limiter::new(Policy::new("llm", Quota::per_hour(100)), MemoryBackend::new());
//! let ann = Key::from("ann");
//! let charge = limiter.try_acquire(&ann, 30).await?;
//! assert_eq!(limiter.peek(&ann).await?.remaining(), 70);
//! charge.settle(45).await?; // it was dearer than thought
//! assert_eq!(limiter.peek(&ann).await?.remaining(), 55);
//! assert!(charge.cancel().await.is_err(), "it has been settled");
//! # Ok(()) }
//! ```
//!
//! A handler in axum takes the charge as an argument; a layer can also be told to look at each response
//! ([`on_response`](crate::RateLimitLayer::on_response)):
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
//! In other services it is in the request's extensions: `request.extensions().get::<Charge>()`.
//!
//! A settlement begins with the call: in memory it is done then, and with a remote backend it goes on in the background
//! of the Tokio runtime that it is called in (on a thread without one it fails), so that the answer to a client need
//! not wait for it. Awaiting the [`Settlement`] tells how it ended. What failed is counted by the backend's
//! [`BackendContext`](crate::backend::BackendContext).

mod error;
mod handle;
mod open;
mod settle;
mod settlement;

pub use self::error::SettleError;
pub use self::handle::Charge;
pub(crate) use self::settle::Settle;
pub use self::settlement::Settlement;
