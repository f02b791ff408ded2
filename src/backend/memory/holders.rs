//! The permits of one key as a plain value. `lua/semaphore.lua` does the same in Redis.

mod table;

use self::table::{Holder, HolderTable};
use crate::decision::PermitId;
use crate::decision::{NEVER, QuotaSnapshot};
use crate::policy::SemaphorePolicy;

/// The permits of one key that are held.
#[derive(Debug, Default)]
pub(super) struct Holders {
    held: HolderTable,
    /// The sum of all weights.
    live: u64,
}

/// The time and the policy of an operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct LeaseContext<'a> {
    pub(super) now: u64,
    pub(super) policy: &'a SemaphorePolicy,
    /// Whether a permit expires with its lease. Otherwise the numbers are those of a permit that is renewed every third
    /// of its lease.
    pub(super) leases_end: bool,
}

impl LeaseContext<'_> {
    fn lease(&self) -> u64 {
        self.policy.lease_micros()
    }

    /// Returns the end of a lease whose stored end is `end`.
    fn end(&self, end: u64) -> u64 {
        if self.leases_end {
            return end;
        }
        let since = (self.now + self.lease()).saturating_sub(end);
        let third = self.lease() / 3;
        end + since / third * third
    }
}

impl Holders {
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    pub(super) fn live(&self) -> u64 {
        self.live
    }

    /// Removes permits whose lease has expired. Shortens leases that end later than a new one would, after the clock
    /// went back.
    fn expire(&mut self, at: &LeaseContext<'_>) {
        if !at.leases_end {
            return;
        }
        while let Some(Holder { end, id, .. }) = self.held.first()
            && end <= at.now
        {
            self.remove(id);
        }
        let latest = at.now + at.lease();
        while let Some(Holder { end, id, .. }) = self.held.last()
            && end > latest
        {
            self.held.renew(id, latest);
        }
    }

    pub(super) fn acquire(
        &mut self,
        at: &LeaseContext<'_>,
        id: PermitId,
        weight: u32,
    ) -> QuotaSnapshot {
        self.expire(at);
        let end = at.now + at.lease();
        let capacity = at.policy.capacity();
        let retry_after = if self.held.renew(id, end) || weight == 0 {
            0
        } else if weight > capacity {
            NEVER
        } else {
            let missing = (self.live + u64::from(weight)).saturating_sub(capacity.into());
            if missing == 0 {
                self.held.insert(Holder { id, end, weight });
                self.live += u64::from(weight);
            }
            if missing == 0 {
                0
            } else {
                self.until_freed(at, missing)
            }
        };
        self.snapshot(at, retry_after)
    }

    /// Renews a lease. Returns whether the permit exists.
    pub(super) fn renew(&mut self, at: &LeaseContext<'_>, id: PermitId) -> bool {
        self.expire(at);
        self.held.renew(id, at.now + at.lease())
    }

    /// Releases a permit. Returns whether it existed.
    pub(super) fn release(&mut self, at: &LeaseContext<'_>, id: PermitId) -> bool {
        self.expire(at);
        self.remove(id)
    }

    /// Returns the numbers at the time of `at`.
    pub(super) fn snapshot(&self, at: &LeaseContext<'_>, retry_after: u64) -> QuotaSnapshot {
        let mut live = self.live;
        let latest = at.now + at.lease();
        if at.leases_end {
            let over = self.held.iter().take_while(|held| held.end <= at.now);
            live -= over.map(|held| u64::from(held.weight)).sum::<u64>();
        }
        let last = self.held.last_end().map_or(0, |end| at.end(end));
        let capacity = at.policy.capacity();
        QuotaSnapshot {
            limit: capacity.into(),
            remaining: u64::from(capacity).saturating_sub(live),
            retry_after,
            reset_after: last.min(latest).saturating_sub(at.now),
        }
    }

    /// Returns the µs until leases of at least the weight `missing` have expired.
    fn until_freed(&self, at: &LeaseContext<'_>, missing: u64) -> u64 {
        let (mut freed, mut wait) = (0, 0);
        for held in self.held.iter() {
            if freed >= missing {
                break;
            }
            freed += u64::from(held.weight);
            wait = at.end(held.end).saturating_sub(at.now).max(wait).max(1);
        }
        wait
    }

    /// Removes a permit. Returns whether it existed.
    pub(super) fn remove(&mut self, id: PermitId) -> bool {
        let Some(held) = self.held.remove(id) else {
            return false;
        };
        self.live -= u64::from(held.weight);
        true
    }
}
