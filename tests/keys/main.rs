//! Keys from outside: no client can pass as another client, or as many.

mod attacks;
#[cfg(feature = "axum")]
mod awaited;
mod lists;
mod names;
mod nat64;
mod parsers;
mod parts;
mod reference;
mod secrets;
#[cfg(feature = "redis")]
#[path = "../support/mod.rs"]
mod shared;
#[allow(dead_code, reason = "for all tests of the layer")]
#[path = "../limit/support.rs"]
mod support;
#[cfg(all(unix, feature = "axum"))]
#[path = "../support/unix_server.rs"]
mod unix_server;
#[cfg(all(unix, feature = "axum"))]
mod unix_sockets;
