//! The layer from outside: every place it goes into, what it owes its neighbours, and what clients get to see.

mod bodies;
mod contract;
mod costs;
mod existing;
mod formats;
mod fuzz;
#[cfg(feature = "tonic")]
mod grpc;
#[cfg(feature = "tonic")]
mod grpc_rejections;
#[cfg(feature = "tonic")]
mod grpc_streams;
mod nesting;
mod places;
mod remote;
mod responses;
#[cfg(feature = "axum")]
mod routes;
#[cfg(feature = "axum")]
mod settling;
mod shadow;
mod spans;
mod storing;
mod support;
#[cfg(feature = "axum")]
mod uris;
#[cfg(feature = "axum")]
mod waiting;
