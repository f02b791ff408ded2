//! A service with all kinds of limits: addresses behind a proxy, customers by tier, uploads by bytes, answers of a
//! language model by tokens, a WebSocket, jobs, gRPC, and an upstream. README.md beside this file walks through it.
//!
//! Run: `cargo run --features serde --example service`
//! With Redis: `LIMITS=redis://127.0.0.1/ cargo run --features redis,serde --example service`

mod config;
mod customers;
mod limits;
mod routes;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tower_sluice::AnyBackend;
use tower_sluice::backend::Backend as _;

use crate::config::Config;
use crate::routes::{AppState, admin, public};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let config = Config::read(std::env::args().nth(1))?;
    let backend = AnyBackend::from_url(&config.backend)?;
    let (listener, operators) = (
        TcpListener::bind(config.listen).await?,
        TcpListener::bind(config.admin).await?,
    );
    let state = AppState::new(config, backend.clone())?;
    tokio::spawn(axum::serve(operators, admin(state.limits.clone())).into_future());
    println!("listening on http://{}", listener.local_addr()?);
    let app = public(state).into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, app)
        .with_graceful_shutdown(async { drop(tokio::signal::ctrl_c().await) })
        .await?;
    // Settlements and refunds run in the background.
    println!("{}", backend.context().idle(Duration::from_secs(5)).await);
    Ok(())
}
