//! How long a request holds its permit.

mod bodies;
mod disconnects;
mod kept;

use axum::Router;
use tower_sluice::concurrency::SemaphoreLayer;
use tower_sluice::{Global, MemorySemaphore, SemaphorePolicy};

use crate::support::listen;

pub(crate) fn in_memory(
    capacity: u32,
) -> (MemorySemaphore, SemaphoreLayer<Global, MemorySemaphore>) {
    let memory = MemorySemaphore::new();
    let layer = SemaphoreLayer::new(
        SemaphorePolicy::new("exports", capacity),
        Global,
        memory.clone(),
    );
    (memory, layer)
}

/// Serves `app` over real connections.
pub(crate) async fn serve(app: Router) -> std::net::SocketAddr {
    let (listener, address) = listen().await;
    tokio::spawn(async { axum::serve(listener, app).await });
    address
}
