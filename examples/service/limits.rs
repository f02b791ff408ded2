//! All limits of the service, from its configuration.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::header::CONTENT_LENGTH;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use tower::Layer as _;
use tower_sluice::cost::HeaderCost;
use tower_sluice::key::{Extension, Networks, TrustedProxies};
use tower_sluice::limit::{PolicyOf, RateLimit, RouteLayer};
use tower_sluice::limiter::WithFailurePolicy;
use tower_sluice::response::{AsError, Http};
use tower_sluice::{
    AnyBackend, Charge, ClientIp, Cost, FailurePolicy, Global, Key, Limiter, MaxWait, Policy,
    Quota, RateLimitLayer, Switch,
};

use crate::config::Config;
use crate::customers::Customer;

/// The service goes on without its Redis.
const ON_ERROR: FailurePolicy = FailurePolicy::FailOpen;

type Limit<K> = RateLimitLayer<K, AnyBackend, Cost, FailurePolicy>;
pub(crate) type ModelClient =
    RateLimit<reqwest::Client, Global, AnyBackend, Cost, FailurePolicy, AsError>;

#[derive(Clone)]
pub(crate) struct Limits {
    pub(crate) backend: AnyBackend,
    /// Turns all limits of clients off and on.
    pub(crate) switch: Switch,
    /// The rejections of each key.
    pub(crate) offenders: Arc<Mutex<HashMap<Key, u64>>>,
    proxies: TrustedProxies,
    tiers: Tiers,
    config: Config,
}

/// Free and paid. Both policies have one name, so that a change of the tier keeps what is spent.
#[derive(Clone)]
struct Tiers([Policy; 2]);

impl PolicyOf<Request> for Tiers {
    fn policy(&self, request: &Request, _: &Key) -> Policy {
        let customer = request.extensions().get::<Customer>();
        self.0[usize::from(customer.is_some_and(|customer| customer.is_paid))].clone()
    }
}

impl Limits {
    pub(crate) fn new(config: Config, backend: AnyBackend) -> Result<Self, Box<dyn Error>> {
        let api = |quota: &Quota| Policy::new("api", *quota);
        Ok(Self {
            backend,
            switch: Switch::new(config.limits),
            offenders: Arc::default(),
            proxies: Networks::from_lines(&config.trusted_proxies)?.into(),
            tiers: Tiers([&config.quotas.free, &config.quotas.paid].map(api)),
            config,
        })
    }

    /// Requests of an address, behind the trusted proxies.
    pub(crate) fn visitors(&self) -> impl RouteLayer + use<> {
        let key = ClientIp::new().forwarded_for(self.proxies.clone());
        self.limit("visitors", &self.config.quotas.visitors, key)
    }

    /// Requests of a customer, by tier.
    pub(crate) fn api(&self) -> impl RouteLayer + use<> {
        self.of_customer("api", &self.config.quotas.free)
            .with_policy(self.tiers.clone())
    }

    /// Bytes of uploads: the length in the head is charged first, and corrected when the body ends.
    pub(crate) fn uploads(&self) -> impl RouteLayer + use<> {
        async fn metered(charge: Charge, request: Request, next: Next) -> Response {
            let meter = charge.meter();
            let request = request.map(|body| Body::new(meter.body(body)));
            next.run(request).await
        }

        let limit = self.of_customer("uploads", &self.config.quotas.uploads);
        let limit = limit.cost(HeaderCost::required(CONTENT_LENGTH));
        let max = DefaultBodyLimit::max(self.config.max_upload);
        (limit, from_fn(metered), max)
    }

    /// Tokens of answers: an estimate is charged first, and corrected when the answer ends.
    pub(crate) fn tokens(&self) -> impl RouteLayer + use<> {
        self.of_customer("tokens", &self.config.quotas.tokens)
            .cost(500)
            .refund_on_status(|status| status.is_server_error())
    }

    /// The budget of [`Self::api`], for what is not a request: messages of a socket, and jobs.
    pub(crate) fn budget(&self, customer: &Customer) -> WithFailurePolicy<Limiter<AnyBackend>> {
        let policy = &self.tiers.0[usize::from(customer.is_paid)];
        let limiter = Limiter::new(policy.clone(), self.backend.clone());
        WithFailurePolicy::new(limiter.enabled(&self.switch), ON_ERROR)
    }

    /// A client that stays within the quota of the model, with all processes of the service together.
    pub(crate) fn model_client(&self) -> ModelClient {
        let policy = Policy::new("model", self.config.quotas.model);
        RateLimitLayer::new(policy, Global, self.backend.clone())
            .wait(MaxWait::within(Duration::from_secs(2)))
            .on_backend_error(ON_ERROR)
            .protocol(AsError)
            .layer(reqwest::Client::new())
    }

    fn of_customer(&self, name: &str, quota: &Quota) -> Limit<Extension<Customer>> {
        self.limit(name, quota, Extension::new())
    }

    fn limit<K>(&self, name: &str, quota: &Quota, key: K) -> Limit<K> {
        let offenders = self.offenders.clone();
        let audited = Http::new().on_rejected(move |head, key, rejection| {
            eprintln!("rejected {} {}: {rejection}", head.method, head.path());
            if let (Some(key), Ok(mut offenders)) = (key, offenders.lock()) {
                *offenders.entry(key.clone()).or_default() += 1;
            }
        });
        let policy = Policy::new(name, *quota);
        RateLimitLayer::new(policy, key, self.backend.clone())
            .on_backend_error(ON_ERROR)
            .enabled(&self.switch)
            .protocol(audited)
    }
}
