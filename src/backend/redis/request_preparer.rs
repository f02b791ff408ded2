//! The work around a round trip: names of keys, the deny cache, and the context.

use std::sync::Arc;

use super::super::BackendContext;
use super::calendar_edges::{EdgeTime, ServerClock};
use super::deny_cache::{CacheMiss, DenyCache};
use super::key_name::Naming;
use super::packed_quotas::PackedQuotas;
use super::request::OpRequest;
use super::round_trip::RedisResult;
use crate::clock::{Timestamp, micros_up};
use crate::decision::{Op, Reply};
use crate::key::Key;
use crate::policy::Policy;
use crate::quota::Cost;

pub(super) struct RequestPreparer {
    pub(super) naming: Naming,
    pub(super) deny_cache: Option<DenyCache>,
    pub(super) context: BackendContext,
    pub(super) server_clock: Arc<ServerClock>,
}

/// The update of the deny cache after the reply.
pub(super) struct CacheUpdate {
    policy: Policy,
    /// The key, if the operation is neither a check nor a reservation.
    changed: Option<Key>,
    query: Option<CacheQuery>,
}

/// A check or a reservation whose denial may be cached.
pub(super) struct CacheQuery {
    miss: CacheMiss,
    cost: Cost,
    asked_at: Timestamp,
}

impl RequestPreparer {
    /// Returns the cached denial of a request, or the query to cache its reply.
    pub(super) fn cached_denial(
        &self,
        op: &Op,
        policy: &Policy,
        key: &Key,
    ) -> Result<Reply, Option<CacheQuery>> {
        let (cost, max_wait) = match op {
            // A peek shows whether a key is blocked now.
            Op::Check(cost) if cost.is_zero() => return Err(None),
            Op::Check(cost) => (cost, None),
            // Under a window a reservation is a check.
            Op::Reserve { cost, max_wait } => {
                let reserves = PackedQuotas::for_policy(policy).of_buckets;
                (cost, reserves.then(|| micros_up(*max_wait)))
            }
            _ => return Err(None),
        };
        let Some(deny_cache) = &self.deny_cache else {
            return Err(None);
        };
        let asked_at = self.context.now();
        let keep = |miss| {
            Some(CacheQuery {
                miss,
                cost: cost.clone(),
                asked_at,
            })
        };
        deny_cache
            .find(policy, key, cost, asked_at, max_wait)
            .map_err(keep)
    }

    pub(super) fn request(
        &self,
        op: Op,
        policy: &Policy,
        key: &Key,
        query: Option<CacheQuery>,
    ) -> (OpRequest, CacheUpdate) {
        let changes = !matches!(op, Op::Check(_) | Op::Reserve { .. });
        let update = CacheUpdate {
            policy: policy.clone(),
            changed: (changes && self.deny_cache.is_some()).then(|| key.clone()),
            query,
        };
        let mut request = OpRequest::new(op, policy, self.naming.names(policy, key));
        if policy.has_calendar() {
            request.time = Some(EdgeTime::new(self.context.now(), &self.server_clock));
        }
        (request, update)
    }

    /// Removes the cached denial of a changed key. This happens before the round trip, and again after it.
    pub(super) fn forget(&self, update: &CacheUpdate) {
        if let (Some(deny_cache), Some(key)) = (&self.deny_cache, &update.changed) {
            deny_cache.forget(&update.policy, key);
        }
    }

    /// Caches a denial.
    pub(super) fn record(&self, update: &CacheUpdate, outcome: &RedisResult) {
        self.forget(update);
        if let (Some(deny_cache), Some(query), Ok(reply)) =
            (&self.deny_cache, &update.query, outcome)
        {
            deny_cache.keep(
                query.miss,
                &update.policy,
                &query.cost,
                query.asked_at,
                || self.context.now(),
                &reply.decision,
            );
        }
    }
}
