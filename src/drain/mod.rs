//! [`DrainLayer`]: reads on when a service has answered before the request's body has ended, so that clients see the answer.
//!
//! A service that rejects an upload does not read its body. An HTTP/1.1 server then closes the connection, and the unread bytes
//! reset it: the client gets a broken pipe in place of the 429, from about 0.5 MB on. This layer reads and discards the rest in a
//! background task, within a bound on its bytes and its time. The answer does not wait for it. A client that sends its
//! whole body before it reads gets the answer, and the connection stays usable.
//!
//! The layer serves any HTTP service, also one without a limit: a 404, a 401, or a 413 of axum's `DefaultBodyLimit`. Put it around
//! all layers that answer before the body is read: in axum, add it last.
//!
//! ```
//! use axum::Router;
//! use axum::body::Bytes;
//! use axum::routing::post;
//! use tower_sluice::drain::DrainLayer;
//! use tower_sluice::{MemoryBackend, PeerIp, Policy, Quota, RateLimitLayer};
//!
//! let limit = RateLimitLayer::new(Policy::new("uploads", Quota::per_minute(5)), PeerIp::new(), MemoryBackend::new());
//! let app: Router = Router::new()
//!     .route("/upload", post(|body: Bytes| async move { format!("{} bytes", body.len()) }))
//!     .layer(limit)
//!     .layer(DrainLayer::new()); // added last, runs first
//! ```
//!
//! # Requests that are not drained
//!
//! | request | reason |
//! |---|---|
//! | its body has ended, or its service has read it to the end | nothing is left |
//! | with `Expect: 100-continue`, and its service has not begun to read | the client waits; reading would ask it for the body (`100 Continue`) |
//! | of HTTP/2 or HTTP/3 | a stream can be reset without its connection |
//! | of gRPC | a stream of messages may never end |
//!
//! # Bounds
//!
//! A drain ends with the body, after 8 MiB ([`max_bytes`](DrainLayer::max_bytes)) or after 5 s
//! ([`time_limit`](DrainLayer::time_limit)). The server then closes the connection, and a client that still sends may not see
//! the answer. Nothing is buffered, and a connection has at most one drain at a time. The layer needs a Tokio runtime; outside of one a body is dropped unread.
//!
//! # Clients that leave while they wait
//!
//! A layer that [waits](crate::RateLimitLayer::wait) holds the request with its unread body. A server drops the request of a
//! client that has left, and the waiter leaves its queue, if the server notices. An HTTP/1.1 server (hyper) notices a closed
//! connection only when it reads:
//!
//! | request that waits | a client that has left |
//! |---|---|
//! | HTTP/1.1 without a body, or with one that came together with the head | is noticed at once |
//! | HTTP/1.1 with a longer body | is not noticed until the wait ends; the waiter keeps its place for [`MaxWait`](crate::MaxWait) at most |
//! | HTTP/2 | is noticed at once |
//!
//! No layer reads ahead to find out: it would buffer a part of each waiting upload, and ask clients with `Expect: 100-continue` for
//! a body that may be rejected. Bound the wait, or read the body in a layer in front of the limit if it is short.

mod body;
mod bounds;
mod layer;
mod service;

pub use self::body::DrainBody;
pub use self::layer::DrainLayer;
pub use self::service::Drain;
