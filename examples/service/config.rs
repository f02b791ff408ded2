//! The configuration: a file, and an environment variable for the backend.

use std::error::Error;
use std::net::SocketAddr;

use serde::Deserialize;
use tower_sluice::Quota;

pub(crate) const EXAMPLE: &str = include_str!("service.toml");

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) listen: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) backend: String,
    pub(crate) limits: bool,
    pub(crate) trusted_proxies: Vec<String>,
    pub(crate) max_upload: usize,
    pub(crate) model: String,
    pub(crate) quotas: Quotas,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Quotas {
    pub(crate) visitors: Quota,
    pub(crate) free: Quota,
    pub(crate) paid: Quota,
    pub(crate) uploads: Quota,
    pub(crate) tokens: Quota,
    pub(crate) model: Quota,
}

impl Config {
    /// Reads the file at `path`, or the one of this example.
    pub(crate) fn read(path: Option<String>) -> Result<Self, Box<dyn Error>> {
        let text = path.map_or(Ok(EXAMPLE.to_owned()), std::fs::read_to_string)?;
        let mut config: Self = toml::from_str(&text)?; // quotas are checked here
        config.backend = std::env::var("LIMITS").unwrap_or(config.backend);
        Ok(config)
    }
}
