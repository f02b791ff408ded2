//! At most two exports and one chat of each client at a time. A permit lasts until the file is sent, or until the
//! WebSocket closes.
//!
//! Run: `cargo run --example concurrency`. With the feature `redis`, several processes share the permits:
//! `cargo run --example concurrency --features redis -- 127.0.0.1:3001 redis://127.0.0.1/`
//! Then: `for i in 1 2 3; do curl -s -o /dev/null -w '%{http_code}\n' localhost:3000/export & done; wait`

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ws::WebSocketUpgrade;
use axum::response::Response;
use axum::routing::{any, get};
use futures_util::{StreamExt as _, stream};
use tower_sluice::backend::Backend as _;
use tower_sluice::concurrency::HeldPermit;
use tower_sluice::{AnyBackend, FailurePolicy, PeerIp, SemaphoreLayer, SemaphorePolicy};

/// Sends ten lines, one every 100 ms. The permit ends with the last line, or when the client leaves.
async fn export() -> Body {
    let lines = stream::iter(1..=10).then(|line| async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok::<_, Infallible>(format!("line {line}\n"))
    });
    Body::from_stream(lines)
}

/// The response to the handshake ends at once, so the task of the WebSocket keeps the permit.
async fn chat(held: HeldPermit, upgrade: WebSocketUpgrade) -> Response {
    let kept = held.keep();
    upgrade.on_upgrade(async move |mut socket| {
        loop {
            let message = tokio::select! {
                message = socket.recv() => message,
                () = kept.lost() => return, // the lease is lost: another client may have the permit
            };
            let Some(Ok(message)) = message else { return };
            if socket.send(message).await.is_err() {
                return;
            }
        }
    })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let listen = arguments.next().unwrap_or("127.0.0.1:3000".into());
    let backend = AnyBackend::from_url(&arguments.next().unwrap_or("memory:".into()))?;
    let each = |name, permits| {
        let permits = SemaphorePolicy::new(name, permits).with_lease(Duration::from_secs(10));
        SemaphoreLayer::new(permits, PeerIp::new(), backend.clone())
            .on_backend_error(FailurePolicy::FailClosed)
    };
    let app = Router::new()
        .route("/export", get(export).layer(each("exports", 2)))
        .route("/chat", any(chat).layer(each("chats", 1)));
    let listener = tokio::net::TcpListener::bind(listen).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    let stop = async { drop(tokio::signal::ctrl_c().await) };
    axum::serve(listener, app)
        .with_graceful_shutdown(stop)
        .await?;
    // Permits are released in the background. A process that ends sooner leaves them to their leases.
    let report = backend.context().idle(Duration::from_secs(5)).await;
    if !report.is_complete() {
        eprintln!("{report}");
    }
    Ok(())
}
