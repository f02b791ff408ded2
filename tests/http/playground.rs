//! A playground process, and a client for it.

use std::path::PathBuf;
use std::process::{Command as StdCommand, ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// The longest time until a response.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

/// Examples are built with the tests, unless single tests are selected.
pub(crate) fn example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().expect("a path");
    let built = tests.parent().and_then(|deps| deps.parent());
    let path = built
        .expect("target/debug/deps")
        .join("examples")
        .join(name);
    assert!(
        path.exists(),
        "{} is missing: run `cargo test`, or `cargo build --examples` first",
        path.display()
    );
    path
}

pub(crate) fn playground() -> PathBuf {
    example("playground")
}

/// A playground process. A drop kills it.
pub(crate) struct Playground {
    pub(crate) process: Child,
    pub(crate) base: String,
    pub(crate) client: Client<HttpConnector, Full<Bytes>>,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let value = self.headers.get(name);
        value.map(|value| value.to_str().expect("ASCII"))
    }

    pub(crate) fn retry_after(&self) -> u64 {
        let seconds = self.field("retry-after").expect("the wait of a rejection");
        seconds.parse().expect("whole seconds")
    }
}

impl Playground {
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        let arguments = [&["--listen", "127.0.0.1:0"], arguments].concat();
        Self::start_example("playground", &arguments).await
    }

    /// Another example that prints its address first.
    pub(crate) async fn start_example(name: &str, arguments: &[&str]) -> Self {
        let mut process = Command::new(example(name))
            .args(arguments)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the example runs");
        let stdout = process.stdout.take().expect("piped");
        let mut line = String::new();
        let mut stdout = BufReader::new(stdout);
        let first = timeout(TIMEOUT, stdout.read_line(&mut line)).await;
        first.expect("in time").expect("a first line");
        let base = line.trim_end().strip_prefix("listening on ");
        let base = base.unwrap_or_else(|| panic!("first line is {line:?}"));
        assert!(base.starts_with("http://127.0.0.1:"), "{base}");
        Self {
            process,
            base: base.to_owned(),
            client: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> Request<Full<Bytes>> {
        let request = Request::builder().method(method);
        let request = request.uri(format!("{}{path}", self.base));
        request.body(Full::default()).expect("a valid head")
    }

    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let answer = async {
            let response = self.client.request(request).await.expect("an answer");
            let (head, body) = response.into_parts();
            let body = body.collect().await.expect("a whole body").to_bytes();
            Answer {
                status: head.status,
                headers: head.headers,
                body: String::from_utf8(body.into()).expect("text"),
            }
        };
        timeout(TIMEOUT, answer).await.expect("in time")
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    pub(crate) async fn statuses(&self, paths: &[&str]) -> Vec<u16> {
        let mut statuses = Vec::new();
        for path in paths {
            statuses.push(self.get(path).await.status.as_u16());
        }
        statuses
    }

    /// Sends a signal and waits for the end.
    pub(crate) async fn stop(&mut self, signal: &str) -> ExitStatus {
        let id = self.process.id().expect("the server runs").to_string();
        let sent = StdCommand::new("sh")
            .args(["-c", "kill $0 $1", signal, &id])
            .status();
        assert!(sent.expect("a shell").success());
        let end = timeout(TIMEOUT, self.process.wait()).await;
        end.expect("the server stops").expect("the process ends")
    }
}
