use crossbeam_utils::CachePadded;

use super::denial::PublishedDenial;
use super::shard::Shard;
use crate::sync::{Mutex, MutexGuard};

/// A shard under its lock, and an entry of it that was denied twice in a row.
///
/// A client that ignores its denials asks for one entry again and again, often from several connections at once. The
/// second denial in a row publishes the state of the entry. Later denials read it without the lock.
#[derive(Default)]
pub(super) struct ShardCell {
    shard: CachePadded<Mutex<Shard>>,
    pub(super) denial: CachePadded<PublishedDenial>,
}

impl ShardCell {
    /// Locks the shard for a change of any entry. Nothing is published afterwards.
    pub(super) fn lock(&self) -> MutexGuard<'_, Shard> {
        let shard = self.shard.lock();
        self.denial.withdraw();
        shard
    }

    /// Locks the shard for a check. It withdraws what it changes.
    #[inline]
    pub(super) fn lock_for_check(&self) -> MutexGuard<'_, Shard> {
        self.shard.lock()
    }
}
