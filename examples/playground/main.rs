//! A server to try limits with curl, without writing code.
//!
//! Run: `cargo run --example playground -- --quota '5/10s burst 3' --quota fixed-window:20/minute`
//! Then: `curl -i localhost:3000/cost/2`, or open the page that shows the limit at work:
//! <http://localhost:3000/_playground>
//!
//! - `--wait 10` lets requests wait. `curl -X POST localhost:3000/settle/5/2` is charged 5 and settled at 2.
//!   `--free-status 5xx` makes failures of the server free.
//! - `--in-flight 2` bounds the requests of a client that are in flight: `curl localhost:3000/stream/30 & curl
//!   localhost:3000/sleep/3000 & curl -i localhost:3000/`.
//! - `--trusted-proxy 127.0.0.1` is for a server behind a proxy: `curl -H 'x-forwarded-for: 203.0.113.7'
//!   localhost:3000` counts for that client.
//! - `--within org=100/minute@header:x-org` adds an outer scope: both allow a request, or none is charged.
//! - `--quota total:20` is a budget that never comes back.
//! - `--admin-token TOKEN` lets its holder block a key for an hour: `curl -X POST -H 'authorization: Bearer TOKEN'
//!   localhost:3000/block/ann/3600`, with `--key header:x-user`. A block of 0 seconds ends it.
//! - With the feature `redis`, several playgrounds share a limit: `--backend redis://127.0.0.1/`. With `cluster` or
//!   `sentinel`, a URL such as `redis+cluster://host:port,host:port` or `redis+sentinel://host:port/name` works, too.
//!
//! SIGTERM and SIGINT stop the server. Requests in flight have 3 seconds to end.

mod admin;
mod page;
mod routes;
mod scope;
mod values;

use std::fmt::Display;
use std::io::{Write as _, stdout};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Path;
use axum::http::header::HeaderName;
use axum::routing::{get, post};
use clap::{CommandFactory, FromArgMatches, Parser};
use http::Request;
use tokio::signal::unix::{SignalKind, signal};
use tower_sluice::backend::Backend;
use tower_sluice::drain::DrainLayer;
use tower_sluice::key::{self, ArcKey, Bearer, Cookie, Global, Header, Networks, Query};
use tower_sluice::policy::ScopeError;
use tower_sluice::{
    AnyBackend, ClientIp, Limiter, MaxWait, MemoryBackend, Policy, Quota, RateLimitLayer,
    SemaphoreLayer, SemaphorePolicy,
};

use self::routes::{cost, settle, sleep, status, stream};
use self::scope::Scope;
use self::values::{
    Fields, IN_FLIGHT, OnError, StatusPattern, Where, address, header_name, lease, milliseconds,
    network, permits, seconds, token,
};

/// A server to try rate limits with curl, and a page at /_playground that shows them at work.
#[derive(Parser)]
struct Options {
    /// The address to listen on; port 0 chooses a free port.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:3000", value_parser = address)]
    listen: SocketAddr,
    /// The backend: `memory:`, or with the feature `redis` a URL such as `redis://127.0.0.1/`.
    #[arg(long, value_name = "URL", default_value = "memory:", value_parser = Where::parse)]
    backend: Where,
    /// The policy for requests when the backend fails: `allow`, `deny`, or `memory`, which decides in this process.
    #[arg(long, value_name = "CHOICE", default_value = "deny")]
    on_backend_error: OnError,
    /// The time limit of the backend, in milliseconds; 250 by default.
    #[arg(long, value_name = "MS", value_parser = milliseconds)]
    backend_timeout: Option<u64>,
    /// A quota, such as `10/second burst 20`, `fixed-window:100/minute` or `10GB/day`. Repeat it for several quotas,
    /// which must all allow a request. Algorithms: token-bucket, interval, fixed-window, sliding-window, sliding-log.
    /// `total:1000` never comes back. The feature `calendar` has `calendar:10000/month@15 Europe/Zurich`.
    #[arg(long, value_name = "STRING", default_value = "10/second burst 20")]
    quota: Vec<Quota>,
    /// The key: `ip`, `global`, `header:NAME`, `cookie:NAME`, `bearer`, `query:NAME` or `path`.
    #[arg(long, value_name = "KEY", default_value = "ip", value_parser = keyed_by)]
    key: KeyArgument,
    /// An outer scope, decided together with the limit of `--key`: `NAME=QUOTA@KEY`, such as
    /// `org=100/minute@header:x-org`. Repeat it for several scopes, the innermost first.
    #[arg(long, value_name = "SCOPE", value_parser = Scope::parse)]
    within: Vec<Scope>,
    /// A network of trusted proxies, such as `10.0.0.0/8`; may be repeated. Then `--key ip` is the client's address
    /// that they write.
    #[arg(long, value_name = "CIDR", value_parser = network)]
    trusted_proxy: Vec<String>,
    /// The header of the trusted proxies: `x-forwarded-for`, `forwarded` (RFC 7239), or a header with one address.
    #[arg(long, value_name = "NAME", default_value = "x-forwarded-for", value_parser = header_name)]
    forwarded_header: HeaderName,
    /// The name of the policy.
    #[arg(long, value_name = "NAME", default_value = "default")]
    name: String,
    /// Decides and charges, but rejects nothing; `x-ratelimit-shadow` marks requests that would be rejected.
    #[arg(long)]
    shadow: bool,
    /// The longest wait of a request, in seconds, such as 0.5; no wait by default.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    wait: Option<Duration>,
    /// The most requests of one key in flight, to the end of their bodies; unlimited by default.
    #[arg(long, value_name = "N", value_parser = permits)]
    in_flight: Option<u32>,
    /// The lease of a permit in Redis, in seconds: the time until it ends after its server was killed.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = lease, allow_negative_numbers = true)]
    lease: Duration,
    /// Responses with this status are free, such as `404` or `5xx`; may be repeated.
    #[arg(long, value_name = "STATUS", value_parser = StatusPattern::parse)]
    free_status: Vec<StatusPattern>,
    /// The format of the rate-limit header fields.
    #[arg(long, value_name = "FORMAT", default_value = "draft11")]
    header_format: Fields,
    /// The token for `POST /block/{key}/{seconds}`, which blocks the key that `--key` takes from a request. Without it
    /// there is no such route.
    #[arg(long, value_name = "TOKEN", value_parser = token)]
    admin_token: Option<String>,
}

/// The key that `--key` names. `None` is the address of the client, which depends on the trusted proxies.
#[derive(Clone)]
struct KeyArgument(Option<ArcKey<Request<Body>>>, String);

fn keyed_by(text: &str) -> Result<KeyArgument, String> {
    let key: ArcKey<Request<Body>> = match (text, text.split_once(':')) {
        ("ip", _) => return Ok(KeyArgument(None, text.to_owned())),
        ("global", _) => Arc::new(Global),
        ("bearer", _) => Arc::new(Bearer),
        ("path", _) => Arc::new(key::Path),
        (_, Some(("header", name))) => match name.parse::<HeaderName>() {
            Ok(name) => Arc::new(Header::from(name)),
            Err(_) => {
                return Err(format!(
                    "invalid header name {name:?}; use for example header:x-api-key"
                ));
            }
        },
        (_, Some(("cookie", name))) => match Cookie::try_new(name) {
            Ok(cookie) => Arc::new(cookie),
            Err(error) => return Err(error.to_string()),
        },
        (_, Some(("query", name))) if !name.is_empty() => Arc::new(Query::new(name)),
        _ => {
            return Err(
                "use ip, global, header:NAME, cookie:NAME, bearer, query:NAME or path, such as header:x-api-key".into(),
            );
        }
    };
    Ok(KeyArgument(Some(key), text.to_owned()))
}

impl Options {
    fn policy(&self) -> Result<Policy, tower_sluice::policy::PolicyError> {
        let policy = named(&self.name, &self.quota)?;
        Ok(if self.shadow { policy.shadow() } else { policy })
    }

    /// Checks that the scopes can be decided together.
    fn check_scopes(&self, policy: &Policy) -> Result<(), ScopeError> {
        if self.within.is_empty() {
            return Ok(());
        }
        let layer = RateLimitLayer::new(policy.clone(), Global, MemoryBackend::new());
        let _checked = layer.try_within_each(self.within.iter().map(Scope::part))?;
        Ok(())
    }

    /// Returns the key. The client is the peer, unless the peer is a trusted proxy.
    fn key(&self) -> ArcKey<Request<Body>> {
        if let Some(key) = &self.key.0 {
            return Arc::clone(key);
        }
        let (client, proxies) = (ClientIp::new(), Networks::new(&self.trusted_proxy));
        let header = &self.forwarded_header;
        Arc::new(match header.as_str() {
            "x-forwarded-for" => client.forwarded_for(proxies),
            "forwarded" => client.forwarded(proxies),
            _ => client.header(header.clone(), proxies),
        })
    }

    fn app(self, backend: AnyBackend, policy: Policy, reported: page::Reported) -> Router {
        let key = self.key();
        let page = page::Page::new(reported, policy.clone());
        let admin = self.admin_token.map(|token| admin::Admin {
            token,
            keyed_by: self.key.1,
            key: key.clone(),
            limiter: Limiter::new(policy.clone(), backend.clone()),
        });
        let free = self.free_status;
        let (max_wait, on_error) = (
            self.wait.map_or(MaxWait::NONE, MaxWait::within),
            self.on_backend_error.choice(),
        );
        let in_flight = self.in_flight.map(|capacity| {
            let permits = SemaphorePolicy::new(IN_FLIGHT, capacity).with_lease(self.lease);
            SemaphoreLayer::new(permits, key.clone(), backend.clone())
                .on_backend_error(on_error.clone())
                .wait(max_wait)
        });
        let needs_one_hash_tag = backend.needs_one_hash_tag();
        let limit = RateLimitLayer::new(policy, key, backend)
            .policy_fn(page.policy_fn())
            .on_backend_error(on_error)
            .wait(max_wait)
            .cost_fn(cost)
            .headers(self.header_format.format())
            .shadow_header(true)
            .on_response(move |parts, charge| {
                if free.iter().any(|free| free.matches(parts.status)) {
                    charge.cancel();
                }
            });
        let app = Router::new()
            .route("/", get(|| async { "ok\n" }))
            .route(
                "/cost/{n}",
                get(|Path(cost): Path<u64>| async move { format!("cost {cost}\n") }),
            )
            .route("/sleep/{ms}", get(sleep))
            .route("/status/{code}", get(status))
            .route("/stream/{n}", get(stream))
            .route("/echo", post(|body: Bytes| async { body }))
            .route("/settle/{estimate}/{actual}", post(settle));
        let app = if self.within.is_empty() {
            app.layer(limit)
        } else {
            let scopes = self.within.iter().map(Scope::part);
            let limit = limit.try_within_each(scopes).expect("checked before");
            app.layer(if needs_one_hash_tag {
                limit.hash_by_outermost()
            } else {
                limit
            })
        };
        let app = match in_flight {
            // Around the rate limit, so that a request without a permit is charged nothing.
            Some(in_flight) => app.layer(in_flight),
            None => app,
        };
        // A client that is still sending its body sees its 429.
        let app = app.layer(DrainLayer::new());
        // After the layers, so that the page is not limited.
        let app = page.serve_beside(app);
        match admin {
            Some(admin) => admin.serve_beside(app),
            None => app,
        }
    }
}

/// Builds the policy. One quota has the policy's name, and several are numbered.
fn named(name: &str, quotas: &[Quota]) -> Result<Policy, tower_sluice::policy::PolicyError> {
    match quotas {
        [only] => Policy::try_new(name, *only),
        several => {
            let numbered =
                |(index, quota): (usize, &Quota)| (format!("{name}-{}", index + 1), *quota);
            Policy::try_from_quotas(name, several.iter().enumerate().map(numbered))
        }
    }
}

/// Completes with SIGTERM or SIGINT. Both are caught from the call on, not from the first poll.
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// How long requests in flight may take to end.
const GRACE: Duration = Duration::from_secs(3);
/// How long background tasks may take after that, such as refunds and released permits.
const LAST_TASKS: Duration = Duration::from_secs(2);

async fn serve(options: Options, policy: Policy, reported: page::Reported) -> std::io::Result<()> {
    // Catch signals before printing the address: a caller may send one right after.
    let (stop, overdue) = (stop_signal()?, stop_signal()?);
    let listener = tokio::net::TcpListener::bind(options.listen).await?;
    println!("listening on http://{}", listener.local_addr()?);
    if !options.backend.is_memory() {
        // A caller may have closed the pipe after the first line, so an error is ignored.
        let reported = options.on_backend_error.reported();
        let _ = writeln!(
            stdout(),
            "if the backend fails, {reported} (--on-backend-error)"
        );
    }
    let backend = options.backend.clone().within(options.backend_timeout);
    let app = options
        .app(backend.clone(), policy, reported)
        .into_make_service_with_connect_info::<SocketAddr>();
    tokio::select! {
        done = axum::serve(listener, app).with_graceful_shutdown(stop) => done?,
        () = async { overdue.await; tokio::time::sleep(GRACE).await } => {}
    }
    let report = Backend::context(&backend).idle(LAST_TASKS).await;
    if !report.is_complete() {
        eprintln!("{report}");
    }
    Ok(())
}

fn fail(why: impl Display) -> ExitCode {
    eprintln!("error: {why}");
    ExitCode::from(2)
}

#[tokio::main]
async fn main() -> ExitCode {
    let parsed = Options::command().try_get_matches();
    let parsed = parsed.and_then(|matches| {
        Ok((
            Options::from_arg_matches(&matches)?,
            page::Reported::of(&matches),
        ))
    });
    let (options, reported) = match parsed {
        Ok(parsed) => parsed,
        // Print the error as one line, without the usage. An argument may contain line breaks.
        Err(error) if error.use_stderr() => {
            let text = error.to_string();
            let wrong = text.split("\n\n").next().unwrap_or("error: bad arguments");
            eprintln!("{}", wrong.lines().collect::<Vec<_>>().join(" "));
            return ExitCode::from(2);
        }
        Err(help) => help.exit(),
    };
    let policy = match options.policy() {
        Ok(policy) => policy,
        Err(error) => return fail(error),
    };
    if let Err(error) = options.check_scopes(&policy) {
        return fail(error);
    }
    if options.admin_token.is_some()
        && !options.within.is_empty()
        && options.backend.needs_one_hash_tag()
    {
        return fail(
            "--admin-token cannot block a key within --within on a Redis Cluster, where it belongs to the outermost key",
        );
    }
    let address = options.listen;
    match serve(options, policy, reported).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(format_args!("cannot serve on {address}: {error}")),
    }
}
