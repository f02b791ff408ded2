use std::hash::{BuildHasher, Hasher};

use ahash::RandomState;

use crate::key::Key;

/// A keyed hash function with a random seed: what a client sends chooses neither its shard nor its neighbours.
pub(super) struct Fingerprints(RandomState);

/// What stands for a policy and a key. Two keys share one with a chance of 2^-64: beside a million others, 5 in 10^14.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint(u64);

impl Fingerprints {
    pub(super) fn new() -> Self {
        Self(RandomState::new())
    }

    #[inline]
    pub(super) fn of(&self, policy: u64, key: &Key) -> Fingerprint {
        let mut hasher = self.0.build_hasher();
        // The policy and the mark of secrets have a fixed length: no key can imitate them.
        hasher.write_u64(policy ^ u64::from(key.is_secret()));
        hasher.write(key.as_bytes());
        Fingerprint(hasher.finish())
    }
}

impl Fingerprint {
    /// The same key under one quota of its policy: all of them lie in one shard, under one lock.
    #[inline]
    pub(super) fn of_quota(self, quota: u64) -> Self {
        Self(self.0 ^ quota)
    }

    /// Bits that the table does not look at first.
    #[inline]
    #[allow(clippy::cast_possible_truncation)]
    pub(super) fn shard(self, shards: usize) -> usize {
        (self.0 >> 32) as usize & (shards - 1)
    }

    #[inline]
    pub(super) fn hash(self) -> u64 {
        self.0
    }
}
