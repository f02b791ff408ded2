//! An outer scope of `--within`.

use axum::body::Body;
use http::Request;
use tower_sluice::key::ArcKey;
use tower_sluice::{Policy, Quota};

use super::{KeyArgument, keyed_by};

/// `NAME=QUOTA@KEY`.
#[derive(Clone)]
pub(crate) struct Scope {
    pub(crate) policy: Policy,
    key: ArcKey<Request<Body>>,
}

impl Scope {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let parts = text.split_once('=');
        // A quota by the calendar contains an `@`, and a key does not.
        let parts = parts.and_then(|(name, rest)| Some((name, rest.rsplit_once('@')?)));
        let Some((name, (quota, key))) = parts else {
            return Err("use NAME=QUOTA@KEY, such as org=100/minute@header:x-org".into());
        };
        let quota: Quota = quota.parse().map_err(|error| format!("{error}"))?;
        let policy = Policy::try_new(name, quota).map_err(|error| error.to_string())?;
        match keyed_by(key)? {
            KeyArgument(Some(key), _) => Ok(Self { policy, key }),
            KeyArgument(None, _) => {
                Err("the key ip is for --key only; use for example header:x-org".into())
            }
        }
    }

    pub(crate) fn part(&self) -> (Policy, ArcKey<Request<Body>>) {
        (self.policy.clone(), self.key.clone())
    }
}
