use std::hash::{BuildHasher, Hasher};

use ahash::RandomState;

use crate::key::Key;

/// A keyed hash function with a random seed: what a client sends chooses neither its shard nor its neighbours.
pub(in crate::backend) struct Fingerprints(RandomState);

/// What stands for a key, or for a key under one limit. Two share one with a chance of 2^-64: beside a million others,
/// 5 in 10^14.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend) struct Fingerprint(u64);

impl Fingerprints {
    pub(in crate::backend) fn new() -> Self {
        Self(RandomState::new())
    }

    #[inline]
    pub(in crate::backend) fn fingerprint(&self, key: &Key) -> Fingerprint {
        let mut hasher = self.0.build_hasher();
        hasher.write(key.as_bytes());
        // Set apart by a constant, as limits are: one more round of the hash would cost as much again.
        let secret = if key.is_secret() {
            0x9E37_79B9_7F4A_7C15
        } else {
            0
        };
        Fingerprint(hasher.finish() ^ secret)
    }
}

impl Fingerprint {
    /// The same key under one limit: all limits of a key lie in one shard, under one lock.
    #[inline]
    pub(in crate::backend) fn under(self, limit: u64) -> Self {
        Self(self.0 ^ limit)
    }

    /// Bits that the table does not look at first.
    #[inline]
    #[allow(clippy::cast_possible_truncation)]
    pub(in crate::backend) fn shard(self, shards: usize) -> usize {
        (self.0 >> 32) as usize & (shards - 1)
    }

    #[inline]
    pub(in crate::backend) fn hash(self) -> u64 {
        self.0
    }
}
