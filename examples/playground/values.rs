//! The values of the command line, and their parsers.

use std::net::SocketAddr;
use std::time::Duration;

use axum::http::StatusCode;
use axum::http::header::HeaderName;
use tower_sluice::backend::Backend as _;
use tower_sluice::key::Networks;
use tower_sluice::response::{HeaderFormat, Reset};
use tower_sluice::{AnyBackend, FailurePolicy, MemoryBackend, SemaphorePolicy};

/// The name of the concurrency limit.
pub(crate) const IN_FLIGHT: &str = "in-flight";

/// Named as on the command line.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum Fields {
    Draft11,
    Draft07,
    Draft06,
    /// X-RateLimit-*, the reset in seconds since 1970
    XEpoch,
    /// X-RateLimit-*, the reset in seconds from now
    XDelta,
    None,
}

impl Fields {
    pub(crate) fn format(self) -> HeaderFormat {
        let x = |reset| HeaderFormat::XRateLimit { reset };
        match self {
            Self::Draft11 => HeaderFormat::Draft11,
            Self::Draft07 => HeaderFormat::Draft07,
            Self::Draft06 => HeaderFormat::Draft06,
            Self::XEpoch => x(Reset::Epoch),
            Self::XDelta => x(Reset::Delta),
            Self::None => HeaderFormat::None,
        }
    }
}

pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse();
    address.map_err(|_| "use an address and a port, such as 127.0.0.1:3000".into())
}

pub(crate) fn milliseconds(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(ms @ 1..) => Ok(ms),
        _ => Err("use milliseconds from 1 on, such as 250".into()),
    }
}

pub(crate) fn header_name(text: &str) -> Result<HeaderName, String> {
    let name = text.parse();
    name.map_err(|_| "use the name of a header, such as x-forwarded-for".into())
}

pub(crate) fn permits(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(permits @ 1..=65_535) => Ok(permits),
        _ => Err("use a number from 1 to 65535, such as 10".into()),
    }
}

pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok();
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "use seconds, such as 10 or 0.5".into())
}

pub(crate) fn lease(text: &str) -> Result<Duration, String> {
    let lease = seconds(text)?;
    let permits = SemaphorePolicy::new(IN_FLIGHT, 1).try_lease(lease);
    permits.map(|_| lease).map_err(|error| error.to_string())
}

/// One status, or all statuses with a first digit.
#[derive(Clone, Copy)]
pub(crate) enum StatusPattern {
    Exactly(u16),
    Hundred(u16),
}

impl StatusPattern {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (pattern, status) = match text.strip_suffix("xx") {
            Some(digit) => (Self::Hundred as fn(u16) -> Self, format!("{digit}00")),
            None => (Self::Exactly as fn(u16) -> Self, text.to_owned()),
        };
        match status.parse() {
            Ok(code @ 200..=599) if status.len() == 3 => Ok(pattern(code)),
            _ => Err("use a status such as 404, or 4xx, from 200 to 599".into()),
        }
    }

    pub(crate) fn matches(self, status: StatusCode) -> bool {
        match self {
            Self::Exactly(code) => status == code,
            Self::Hundred(first) => status.as_u16() / 100 == first / 100,
        }
    }
}

pub(crate) fn token(text: &str) -> Result<String, String> {
    let is_visible = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    let valid = is_visible.then(|| text.to_owned());
    valid.ok_or_else(|| "use a token of visible ASCII characters".into())
}

pub(crate) fn network(text: &str) -> Result<String, String> {
    match Networks::from_lines([text]) {
        Ok(networks) if !networks.is_empty() => Ok(text.to_owned()),
        Ok(_) => Err("use a network, such as 10.0.0.0/8".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// A backend and its URL.
#[derive(Clone)]
pub(crate) struct Where {
    url: String,
    backend: AnyBackend,
}

impl Where {
    pub(crate) fn parse(url: &str) -> Result<Self, tower_sluice::backend::BackendError> {
        let backend = AnyBackend::from_url(url)?;
        Ok(Self {
            url: url.to_owned(),
            backend,
        })
    }

    pub(crate) fn is_memory(&self) -> bool {
        self.url == "memory:"
    }

    /// Returns whether the keys of inner scopes have to belong to the outermost key.
    pub(crate) fn needs_one_hash_tag(&self) -> bool {
        self.backend.needs_one_hash_tag()
    }

    pub(crate) fn within(self, limit: Option<u64>) -> AnyBackend {
        match limit {
            #[cfg(feature = "redis")]
            Some(ms) if !self.is_memory() => tower_sluice::RedisBackend::builder()
                .time_limit(Duration::from_millis(ms))
                .connect_lazy(&self.url)
                .map_or(self.backend, AnyBackend::from),
            _ => self.backend,
        }
    }
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum OnError {
    Allow,
    Deny,
    Memory,
}

impl OnError {
    pub(crate) const fn reported(self) -> &'static str {
        match self {
            Self::Allow => "requests pass uncounted",
            Self::Deny => "requests are rejected with 503",
            Self::Memory => "this process decides by itself",
        }
    }

    pub(crate) fn choice(self) -> FailurePolicy {
        match self {
            Self::Allow => FailurePolicy::FailOpen,
            Self::Deny => FailurePolicy::FailClosed,
            Self::Memory => FailurePolicy::Fallback(MemoryBackend::new()),
        }
    }
}
