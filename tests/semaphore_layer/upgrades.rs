//! WebSockets through axum: the response to the handshake ends at once, and the connection stays open.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::response::Response;
use axum::routing::any;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tower_sluice::concurrency::HeldPermit;
use tower_sluice::{MemorySemaphore, PeerIp, SemaphoreLayer, SemaphorePolicy};

use crate::support::{TIMEOUT, listen};

/// The trap: the handler does not keep the permit.
async fn forget_permit(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(echo)
}

async fn keep_permit(held: HeldPermit, upgrade: WebSocketUpgrade) -> Response {
    let kept = held.keep();
    upgrade.on_upgrade(async |socket| {
        echo(socket).await;
        drop(kept);
    })
}

async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        if socket.send(message).await.is_err() {
            return;
        }
    }
}

async fn serve() -> (MemorySemaphore, SocketAddr) {
    let memory = MemorySemaphore::new();
    let limit = SemaphoreLayer::new(
        SemaphorePolicy::new("chats", 1),
        PeerIp::new(),
        memory.clone(),
    );
    let app = Router::new()
        .route("/forgets", any(forget_permit))
        .route("/keeps", any(keep_permit))
        .layer(limit);
    let (listener, address) = listen().await;
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async { axum::serve(listener, app).await });
    (memory, address)
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// An open connection that answers, or the status of the rejection.
async fn open(address: SocketAddr, path: &str) -> Result<Socket, u16> {
    let handshake = connect_async(format!("ws://{address}{path}"));
    match timeout(TIMEOUT, handshake).await.expect("in time") {
        Ok((socket, response)) => {
            assert_eq!(response.status(), 101);
            assert!(
                response.headers().get("ratelimit").is_none(),
                "nothing on 1xx"
            );
            Ok(socket)
        }
        Err(Error::Http(response)) => Err(response.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

async fn talk(socket: &mut Socket, word: &'static str) {
    use futures_util::{SinkExt as _, StreamExt as _};
    socket.send(Message::text(word)).await.expect("it is open");
    let answer = timeout(TIMEOUT, socket.next()).await.expect("in time");
    assert_eq!(
        answer.expect("open").expect("a message"),
        Message::text(word)
    );
}

async fn until_held(memory: &MemorySemaphore, held: u64) {
    let wait = async {
        while memory.held() != held {
            sleep(Duration::from_millis(2)).await;
        }
    };
    let reached = timeout(TIMEOUT, wait).await;
    assert!(reached.is_ok(), "{} are held, not {held}", memory.held());
}

#[tokio::test]
async fn kept_permit_lasts_as_long_as_the_connection() {
    let (memory, address) = serve().await;
    for _ in 0..3 {
        let mut first = open(address, "/keeps").await.expect("one permit is free");
        talk(&mut first, "hello").await;
        sleep(Duration::from_millis(100)).await;
        assert_eq!(memory.held(), 1);
        assert_eq!(open(address, "/keeps").await.err(), Some(429));
        talk(&mut first, "still here").await;
        drop(first);
        until_held(&memory, 0).await;
    }
}

#[tokio::test]
async fn permit_that_is_not_kept_ends_with_the_handshake() {
    let (memory, address) = serve().await;
    let mut first = open(address, "/forgets").await.expect("one permit is free");
    until_held(&memory, 0).await;
    let mut second = open(address, "/forgets")
        .await
        .expect("the permit is free again");
    // The documentation warns of it: two connections, where one is allowed.
    talk(&mut first, "first").await;
    talk(&mut second, "second").await;
}
