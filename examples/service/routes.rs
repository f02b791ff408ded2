//! The routes and their handlers.

use std::error::Error;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode};
use axum::middleware::from_extractor;
use axum::response::Response;
use axum::routing::{any, get, post, put};
use axum::{Extension, Router};
use futures_util::stream;
use tower::{Service as _, ServiceExt as _};
use tower_sluice::key::{Keep, ToKey as _};
use tower_sluice::{AnyBackend, Charge, DrainLayer, MaxWait};

use crate::config::Config;
use crate::customers::Customer;
use crate::limits::{Limits, ModelClient};

#[derive(Clone)]
pub(crate) struct AppState {
    pub(crate) limits: Limits,
    client: ModelClient,
    model: reqwest::Url,
}

impl AppState {
    pub(crate) fn new(config: Config, backend: AnyBackend) -> Result<Self, Box<dyn Error>> {
        let model = config.model.parse()?;
        let limits = Limits::new(config, backend)?;
        Ok(Self {
            client: limits.model_client(),
            limits,
            model,
        })
    }
}

/// The routes for clients, of HTTP and gRPC.
pub(crate) fn public(state: AppState) -> Router {
    let limits = &state.limits;
    let upload = async |body: Bytes| format!("{} bytes\n", body.len());
    let customers = Router::new()
        .route("/search", get(|| async { "found\n" }))
        .route("/upload", put(upload).layer(limits.uploads()))
        .route("/ask", post(ask).layer(limits.tokens()))
        .route("/chat", any(chat))
        .route("/reports", post(report))
        .layer(limits.api())
        .layer(from_extractor::<Keep<Customer>>()); // added last, runs first
    let (_, health) = tonic_health::server::health_reporter();
    let grpc = tonic::service::Routes::new(health).into_axum_router();
    customers
        .merge(grpc.with_state(()))
        .layer(limits.visitors())
        .layer(DrainLayer::new()) // the client of a rejected upload sees its answer
        .with_state(state)
}

/// The route for operators, on a port of its own.
pub(crate) fn admin(limits: Limits) -> Router {
    let set = async |State(limits): State<Limits>, Path(on): Path<String>| {
        limits.switch.set(on == "on");
        StatusCode::NO_CONTENT
    };
    Router::new()
        .route("/limits/{on}", put(set))
        .with_state(limits)
}

/// Passes the answer of the model on while it comes, and charges its tokens when it ends.
async fn ask(
    State(mut state): State<AppState>,
    charge: Charge,
    question: String,
) -> Result<Response, StatusCode> {
    let mut request = reqwest::Request::new(Method::POST, state.model);
    *request.body_mut() = Some(question.into());
    let answered = async { state.client.ready().await?.call(request).await }.await;
    let answer = answered.map_err(|_| StatusCode::BAD_GATEWAY)?;
    let chunks = stream::unfold((answer, charge.meter()), async |(mut answer, meter)| {
        let chunk = answer.chunk().await.transpose()?;
        if let Ok(chunk) = &chunk {
            let words = chunk.split(u8::is_ascii_whitespace);
            meter.add(words.filter(|word| !word.is_empty()).count() as u64);
        }
        Some((chunk, (answer, meter)))
    });
    Ok(Response::new(Body::from_stream(chunks)))
}

/// Each message costs as much as a request.
async fn chat(
    State(state): State<AppState>,
    Extension(customer): Extension<Customer>,
    upgrade: WebSocketUpgrade,
) -> Response {
    let (budget, key) = (state.limits.budget(&customer), customer.to_key());
    upgrade.on_upgrade(async move |mut socket| {
        while let Some(Ok(message)) = socket.recv().await {
            let Message::Text(text) = message else {
                continue;
            };
            let reply = match budget.acquire(&key, 1, MaxWait::NONE).await {
                Ok(_) => format!("echo: {text}"),
                Err(rejected) => rejected.to_string(),
            };
            if socket.send(Message::text(reply)).await.is_err() {
                return;
            }
        }
    })
}

/// Starts a job that waits for its share of the customer's budget.
async fn report(
    State(state): State<AppState>,
    Extension(customer): Extension<Customer>,
) -> StatusCode {
    tokio::spawn(async move { run_report(&state.limits, &customer).await });
    StatusCode::ACCEPTED
}

/// Returns whether the job ran.
pub(crate) async fn run_report(limits: &Limits, customer: &Customer) -> bool {
    let (key, ten_minutes) = (customer.to_key(), Duration::from_secs(600));
    let acquired = limits.budget(customer).acquire(&key, 5, ten_minutes).await;
    acquired.is_ok()
}
