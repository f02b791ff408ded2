//! The rate limit layer from outside: where it can be applied, its Tower contract, and the responses that clients see.

mod any_clock;
mod blocks;
mod bodies;
mod cache_control;
#[cfg(feature = "axum")]
mod composition;
#[cfg(feature = "axum")]
mod content_length;
mod contract;
mod costs;
mod existing_fields;
mod failure_policies;
mod formats;
#[cfg(feature = "axum")]
mod forms;
mod fuzz;
#[cfg(feature = "tonic")]
mod grpc;
#[cfg(feature = "tonic")]
mod grpc_rejections;
#[cfg(feature = "tonic")]
mod grpc_streams;
#[cfg(feature = "axum")]
mod logins;
mod long_durations;
mod nesting;
mod observed;
mod placement;
mod remote;
mod required_costs;
mod responses;
#[cfg(feature = "axum")]
mod routes;
mod scopes;
#[cfg(feature = "axum")]
mod settling;
mod shadow;
mod support;
mod switch;
#[cfg(feature = "test-util")]
mod test_backend;
#[cfg(feature = "axum")]
mod uris;
#[cfg(feature = "axum")]
mod waiting;
