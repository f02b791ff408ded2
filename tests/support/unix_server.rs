//! A server on a Unix socket, and requests to it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{env, fs, process};

use axum::Router;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

/// The longest time until a response.
const TIMEOUT: Duration = Duration::from_secs(10);

/// An axum server on its own Unix socket, whose connections have no address.
pub(crate) struct UnixServer(PathBuf);

impl UnixServer {
    pub(crate) fn start(app: Router) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let started = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("tower-sluice-{}-{started}.sock", process::id());
        let path = env::temp_dir().join(name);
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path).expect("a socket");
        tokio::spawn(async { axum::serve(listener, app).await });
        Self(path)
    }

    /// The status of a request with this field, on a new connection.
    pub(crate) async fn status(&self, field: &str, value: &str) -> u16 {
        let stream = UnixStream::connect(&self.0).await;
        let stream = TokioIo::new(stream.expect("a connection"));
        let connected = http1::handshake(stream).await;
        let (mut client, connection) = connected.expect("HTTP");
        tokio::spawn(connection);
        let request = Request::get("/").header("host", "localhost");
        let request = request.header(field, value).body(Full::<Bytes>::default());
        let response = client.send_request(request.expect("a valid head"));
        let response = timeout(TIMEOUT, response).await;
        response
            .expect("in time")
            .expect("an answer")
            .status()
            .as_u16()
    }
}

impl Drop for UnixServer {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
