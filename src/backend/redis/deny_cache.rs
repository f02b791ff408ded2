//! Cached denials. They keep an attack on one key away from Redis.
//!
//! A denial holds until its `retry_after`, unless another server refunds, resets or raises the limit meanwhile. It is
//! therefore cached for at most a second. The cache never allows a request.
//!
//! A request of the same cost gets the rest of the known wait. A larger cost under a single continuous bucket waits
//! longer: by the time in which the difference is refilled. Any other request goes to Redis, and so does a reservation
//! that may fit.

use parking_lot::Mutex;

use crate::clock::Timestamp;
use crate::decision::{Decision, NEVER, Reply, Snapshot};
use crate::key::Key;
use crate::policy::{NamedQuota, Policy};
use crate::quota::{Cost, Rule};

use super::super::fingerprint::{Fingerprint, Fingerprints};
use super::packed_quotas::PackedQuotas;

/// The number of entries. Two keys of one entry displace each other, which costs a command to Redis.
const ENTRIES: usize = 1 << 13;

/// The longest wait, µs. One more is [`NEVER`].
const LONGEST_WAIT: u64 = NEVER - 1;

pub(super) struct DenyCache {
    /// The longest time for which a denial is cached, µs.
    longest: u64,
    fingerprints: Fingerprints,
    entries: Box<[Mutex<CacheEntry>]>,
}

#[derive(Default)]
struct CacheEntry {
    /// Changes with each operation on a key of this entry, so that an older reply is not cached.
    epoch: u32,
    denial: Option<Box<CachedDenial>>,
}

struct CachedDenial {
    fingerprint: Fingerprint,
    policy: Policy,
    cost: Cost,
    /// The denial was decided between these times. It is valid from the first, and its waits count from the second. A
    /// request is then never denied for too long, and never gets a wait that is too short.
    asked_at: Timestamp,
    answered_at: Timestamp,
    until: Timestamp,
    snapshot: Snapshot,
}

/// The additional wait of a larger cost, µs. The known wait was rounded up. The sum is exact only if the bucket refills
/// the difference in whole microseconds.
#[derive(Clone, Copy)]
struct More {
    least: u64,
    most: u64,
}

/// The entry in which a reply may be cached.
#[derive(Clone, Copy)]
pub(super) struct CacheMiss {
    fingerprint: Fingerprint,
    epoch: u32,
}

impl DenyCache {
    pub(super) fn new(longest: u64) -> Self {
        Self {
            longest,
            fingerprints: Fingerprints::new(),
            entries: (0..ENTRIES).map(|_| Mutex::default()).collect(),
        }
    }

    fn fingerprint(&self, policy: &Policy, key: &Key) -> Fingerprint {
        self.fingerprints
            .fingerprint(key)
            .under(PackedQuotas::for_policy(policy).name)
    }

    fn entry(&self, fingerprint: Fingerprint) -> &Mutex<CacheEntry> {
        &self.entries[fingerprint.shard(ENTRIES)]
    }

    /// Returns the cached denial of this request, or the entry for its reply. A reservation is denied only if it would
    /// wait for longer than `max_wait`, µs.
    pub(super) fn find(
        &self,
        policy: &Policy,
        key: &Key,
        cost: &Cost,
        now: Timestamp,
        max_wait: Option<u64>,
    ) -> Result<Reply, CacheMiss> {
        let fingerprint = self.fingerprint(policy, key);
        let entry = self.entry(fingerprint).lock();
        if let Some(denial) = &entry.denial
            && denial.fingerprint == fingerprint
            && denial.policy.is(policy)
            && (denial.asked_at..denial.until).contains(&now)
            && let Some(more) = denial.more_for(cost)
            && max_wait.is_none_or(|max_wait| {
                denial.snapshot.is_of_block()
                    || policy.is_exceeded_by(cost)
                    || denial.least_wait(more.least, now) > max_wait
            })
        {
            return Ok(denial.answer(cost, more.most, now));
        }
        let epoch = entry.epoch;
        Err(CacheMiss { fingerprint, epoch })
    }

    /// Caches the reply to a request of `asked_at`, which arrived at `answered_at`. A reply that charged removes the
    /// cached denial, because its waits have become longer.
    pub(super) fn keep(
        &self,
        miss: CacheMiss,
        policy: &Policy,
        cost: &Cost,
        asked_at: Timestamp,
        answered_at: impl FnOnce() -> Timestamp,
        decision: &Decision,
    ) {
        let Decision::Deny(snapshot, _) = decision else {
            if (0..policy.quotas().len()).any(|index| cost.get(index) > 0) {
                let mut entry = self.entry(miss.fingerprint).lock();
                entry
                    .denial
                    .take_if(|denial| denial.fingerprint == miss.fingerprint);
            }
            return;
        };
        if policy.quotas().iter().any(NamedQuota::is_forgotten) {
            return; // it may allow before the reported wait is over
        }
        let wait = snapshot.governor().retry_after;
        if wait == NEVER && !policy.is_exceeded_by(cost) && policy.is_of_buckets() {
            // The reservation exceeds the largest debt. A check of the same cost has a wait.
            return;
        }
        let wait = wait.min(self.longest);
        let until = Timestamp::from_micros(asked_at.as_micros().saturating_add(wait));
        let mut entry = self.entry(miss.fingerprint).lock();
        if entry.epoch == miss.epoch {
            entry.denial = Some(Box::new(CachedDenial {
                fingerprint: miss.fingerprint,
                policy: policy.clone(),
                cost: cost.clone(),
                asked_at,
                answered_at: answered_at(),
                until,
                snapshot: snapshot.clone(),
            }));
        }
    }

    /// Removes the denial of a key that was changed, and keeps replies in flight out of the cache.
    pub(super) fn forget(&self, policy: &Policy, key: &Key) {
        let fingerprint = self.fingerprint(policy, key);
        let mut entry = self.entry(fingerprint).lock();
        entry.epoch = entry.epoch.wrapping_add(1);
        entry.denial = None;
    }
}

impl CachedDenial {
    /// Returns the additional wait of this cost, compared with the denied cost. Returns `None` if only Redis knows it.
    fn more_for(&self, cost: &Cost) -> Option<More> {
        let quotas = self.policy.quotas();
        if self.snapshot.is_of_block() && !cost.is_zero() && !self.policy.has_scopes() {
            return Some(More { least: 0, most: 0 });
        }
        if (0..quotas.len()).all(|index| cost.get(index) == self.cost.get(index)) {
            return Some(More { least: 0, most: 0 });
        }
        let [quota] = quotas else { return None };
        let Rule::TokenBucket(bucket) = quota.quota.rule else {
            return None;
        };
        let more = u128::from(cost.get(0).checked_sub(self.cost.get(0))?);
        let grains = more * u128::from(bucket.units.per_token.get());
        let per_micro = u128::from(bucket.units.per_micro.get());
        let micros = |wait: u128| u64::try_from(wait).unwrap_or(LONGEST_WAIT);
        Some(More {
            least: micros(grains / per_micro),
            most: micros(grains.div_ceil(per_micro)),
        })
    }

    /// Returns the shortest remaining wait with this additional wait, µs.
    fn least_wait(&self, more: u64, now: Timestamp) -> u64 {
        let wait = self.snapshot.governor().retry_after.saturating_add(more);
        wait.saturating_sub(now.micros_since(self.asked_at))
    }

    fn answer(&self, cost: &Cost, more: u64, now: Timestamp) -> Reply {
        let passed = now.micros_since(self.answered_at);
        let mut snapshot = self.snapshot.aged(cost, passed);
        for quota in &mut snapshot.quotas {
            if quota.retry_after != 0 && quota.retry_after != NEVER {
                quota.retry_after = quota.retry_after.saturating_add(more).min(LONGEST_WAIT);
            }
        }
        Reply::to_check(snapshot, Default::default)
    }
}

#[cfg(test)]
mod tests;
