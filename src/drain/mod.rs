//! [`DrainLayer`] drains the request body if a service has answered before the end of the body, so that the client
//! receives the answer.
//!
//! Guide: [what clients see](crate::_guide::clients).
//!
//! A service that rejects an upload does not read its body. An HTTP/1.1 server then closes the connection, and the
//! unread bytes reset it. From about 0.5 MB on, the client gets a broken pipe instead of the 429. This layer reads and
//! discards the rest in a background task, within a bound on bytes and time. The answer does not wait for the task. A
//! client that sends its whole body before it reads receives the answer, and the connection stays usable.
//!
//! The layer works for any HTTP service, also without a limit: for a 404, a 401, or a 413 of axum's `DefaultBodyLimit`.
//! It must be outside of all layers that answer before the body is read. In axum, add it last.
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
//! | the body has ended, or the service has read it to the end | nothing is left |
//! | with `Expect: 100-continue`, and the service has not started to read | the client has not sent the body; a read would request it (`100 Continue`) |
//! | of HTTP/2 or HTTP/3 | a stream can be reset without its connection |
//! | of gRPC | a stream of messages may never end |
//!
//! # Bounds
//!
//! A drain ends with the body, after 8 MiB ([`max_bytes`](DrainLayer::max_bytes)) or after 5 s
//! ([`time_limit`](DrainLayer::time_limit)). The server then closes the connection, and a client that still sends may
//! not receive the answer. Nothing is buffered, and a connection has at most one drain at a time. The layer needs a
//! Tokio runtime; outside of one a body is dropped unread.
//!
//! # Clients that disconnect during a wait
//!
//! A layer that [waits](crate::RateLimitLayer::wait) holds the request with its unread body. If the server detects that
//! the client has disconnected, it drops the request, and the waiter leaves its queue. An HTTP/1.1 server (hyper)
//! detects a closed connection only when it reads:
//!
//! | request that waits | a disconnect |
//! |---|---|
//! | HTTP/1.1 without a body, or with a body that came together with the head | is detected at once |
//! | HTTP/1.1 with a longer body | is not detected until the wait ends; the waiter keeps its place for at most [`MaxWait`](crate::MaxWait) |
//! | HTTP/2 | is detected at once |
//!
//! No layer reads ahead to detect it. That would buffer a part of each waiting upload, and request bodies that may be
//! rejected from clients with `Expect: 100-continue`. Bound the wait, or read short bodies in a layer outside of the
//! limit.

mod body;
mod bounds;
mod layer;
mod service;

pub use self::body::DrainBody;
pub use self::layer::DrainLayer;
pub use self::service::Drain;
