//! `/_playground`: a page that shows the limit at work, and the routes that the page needs. They are not limited.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY};
use axum::response::{Html, IntoResponse};
use axum::routing::{get, put};
use axum::{Json, Router};
use clap::ArgMatches;
use serde_json::{Value, json};
use tower_sluice::policy::NamedQuota;
use tower_sluice::{Head, Key, Policy, Quota};

const PAGE: &str = include_str!("../assets/playground.html");

/// The page loads nothing from elsewhere, and connects to this server only.
const ITSELF_ONLY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                           connect-src 'self'; img-src data:";

/// Longer than any text of 8 quotas, in bytes.
const LONGEST_QUOTAS: usize = 4096;

/// The settings of the command line that the page shows.
#[derive(Debug)]
pub(crate) struct Reported {
    key: String,
    header_format: String,
    in_flight: Option<u32>,
    lease: Option<Duration>,
    wait: Option<Duration>,
}

impl Reported {
    pub(crate) fn of(matches: &ArgMatches) -> Self {
        let text = |id: &str| {
            let mut values = matches.try_get_raw(id).ok().flatten()?;
            Some(values.next_back()?.to_string_lossy().into_owned())
        };
        let duration = |id: &str| matches.try_get_one(id).ok().flatten().copied();
        Self {
            key: text("key").unwrap_or_default(),
            header_format: text("header_format").unwrap_or_else(|| "draft11".into()),
            in_flight: matches.try_get_one("in_flight").ok().flatten().copied(),
            lease: duration("lease"),
            wait: duration("wait"),
        }
    }
}

/// The page, and the policy that it may replace.
#[derive(Clone)]
pub(crate) struct Page {
    reported: Arc<Reported>,
    policy: Arc<RwLock<Policy>>,
}

impl Page {
    pub(crate) fn new(reported: Reported, policy: Policy) -> Self {
        Self {
            reported: Arc::new(reported),
            policy: Arc::new(RwLock::new(policy)),
        }
    }

    /// Returns the current policy. It is replaced as a whole, so a poisoned lock still holds a whole policy.
    fn policy(&self) -> Policy {
        let policy = self.policy.read();
        policy.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn policy_fn(&self) -> impl Fn(&Head<'_>, &Key) -> Policy + Clone + use<> {
        let page = self.clone();
        move |_, _| page.policy()
    }

    /// Adds the page to limited routes. The routes are added one by one, because a merged router would bring a fallback
    /// without limits.
    pub(crate) fn serve_beside(self, app: Router) -> Router {
        let page = (
            [(CONTENT_SECURITY_POLICY, ITSELF_ONLY), NO_STORE],
            Html(PAGE),
        );
        let replace = put(replace).layer(DefaultBodyLimit::max(LONGEST_QUOTAS));
        app.route("/_playground", get(async || page))
            .route("/_playground/config", get(config).with_state(self.clone()))
            .route("/_playground/quota", replace.with_state(self))
    }
}

const NO_STORE: (axum::http::HeaderName, &str) = (CACHE_CONTROL, "no-store");

async fn config(State(page): State<Page>) -> impl IntoResponse {
    let policy = page.policy();
    let seconds = |duration: Option<Duration>| duration.map(|duration| duration.as_secs_f64());
    let config = json!({
        "policy": policy.name(),
        "quotas": policy.quotas().iter().map(numbers).collect::<Vec<_>>(),
        "key": page.reported.key,
        "header_format": page.reported.header_format,
        "shadow": policy.is_shadow(),
        "in_flight": page.reported.in_flight,
        "lease": seconds(page.reported.lease),
        "wait": seconds(page.reported.wait),
    });
    ([NO_STORE], Json(config))
}

/// Describes a quota. The length of a window is only in its text. Without the algorithm, that is the text of a bucket.
fn numbers(named: &NamedQuota) -> Value {
    let (quota, text) = (named.quota(), named.quota().to_string());
    let (algorithm, rate) = text.split_once(':').unwrap_or(("token-bucket", &text));
    let rate = quota.rate().or_else(|| rate.parse::<Quota>().ok()?.rate());
    json!({
        "name": named.name(),
        "text": text,
        "algorithm": algorithm,
        "limit": quota.limit(),
        "refill": rate.map(|(refill, _)| refill),
        "period_us": rate.and_then(|(_, period)| u64::try_from(period.as_micros()).ok()),
    })
}

/// Replaces the quotas. Tokens spent under the old quotas stay spent where the quotas are alike (see [`Policy`]).
async fn replace(
    State(page): State<Page>,
    text: String,
) -> Result<impl IntoResponse, (StatusCode, String)> {
    let rejected = |why: &dyn std::fmt::Display| (StatusCode::BAD_REQUEST, why.to_string());
    let quotas = Quota::parse_list(&text).map_err(|why| rejected(&why))?;
    let running = page.policy();
    let policy = crate::named(running.name(), &quotas).map_err(|why| rejected(&why))?;
    let policy = if running.is_shadow() {
        policy.shadow()
    } else {
        policy
    };
    *page.policy.write().unwrap_or_else(PoisonError::into_inner) = policy;
    Ok(config(State(page)).await)
}
