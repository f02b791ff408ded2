//! The messages of a WebSocket and the requests of its client spend one budget.
//!
//! Run: `cargo run --example websocket`

use std::net::SocketAddr;

use axum::Router;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::extract::{ConnectInfo, State};
use axum::response::Response;
use axum::routing::{any, get};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::tungstenite::Message as Sent;
use tower_sluice::{Key, Limiter, MemoryBackend, PeerIp, Policy, Quota, RateLimitLayer};

type Limits = Limiter<MemoryBackend>;

async fn chat(
    State(limits): State<Limits>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    upgrade: WebSocketUpgrade,
) -> Response {
    let client = Key::from(peer.ip()); // the key that `PeerIp` makes
    upgrade.on_upgrade(async move |mut socket| {
        while let Some(Ok(message)) = socket.recv().await {
            let Message::Text(text) = message else {
                continue; // the library answers pings
            };
            let cost = 1 + text.len() as u64 / 1_000;
            let reply = match limits.try_acquire(&client, cost).await {
                Ok(_) => format!("echo: {text}"),
                Err(rejected) => rejected.to_string(),
            };
            if socket.send(Message::text(reply)).await.is_err() {
                return;
            }
        }
    })
}

fn app() -> Router {
    let (policy, backend) = (Policy::new("api", Quota::per_hour(4)), MemoryBackend::new());
    let limit = RateLimitLayer::new(policy.clone(), PeerIp::new(), backend.clone());
    Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/chat", any(chat))
        .layer(limit) // the handshake costs 1, too
        .with_state(Limiter::new(policy, backend))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let app = app().into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(axum::serve(listener, app).into_future());

    let stream = tokio::net::TcpStream::connect(address).await?;
    let (mut socket, _) =
        tokio_tungstenite::client_async(format!("ws://{address}/chat"), stream).await?;
    let mut replies = Vec::new();
    for message in ["one", "two", "three", "four"] {
        socket.send(Sent::text(message)).await?;
        let reply = socket.next().await.ok_or("the socket is closed")??;
        println!("{message}: {reply}");
        replies.push(reply.into_text()?.to_string());
    }
    assert_eq!(replies[..3], ["echo: one", "echo: two", "echo: three"]);
    assert!(replies[3].starts_with("rate limit exceeded, allowed after"));
    let response = reqwest::get(format!("http://{address}/")).await?;
    assert_eq!(response.status(), 429, "the messages have spent the budget");
    Ok(())
}
