use std::hash::{BuildHasher, Hasher};

use ahash::RandomState;

use crate::key::Key;

/// Two keyed hash functions with random seeds: what a client sends chooses neither its shard nor its neighbours, and the
/// chance that any two of a million keys share their 96 bits is below 10^-17.
pub(super) struct Fingerprints(RandomState, RandomState);

/// What stands for a policy and a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint {
    pub(super) high: u64,
    pub(super) low: u32,
}

impl Fingerprints {
    pub(super) fn new() -> Self {
        Self(RandomState::new(), RandomState::new())
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation)]
    pub(super) fn of(&self, policy: u64, key: &Key) -> Fingerprint {
        let hash = |state: &RandomState| {
            let mut hasher = state.build_hasher();
            // The policy and the mark of secrets have a fixed length: no key can imitate them.
            hasher.write_u64(policy ^ u64::from(key.is_secret()));
            hasher.write(key.as_bytes());
            hasher.finish()
        };
        Fingerprint {
            high: hash(&self.0),
            low: hash(&self.1) as u32,
        }
    }
}

impl Fingerprint {
    /// The same key under one quota of its policy: all of them lie in one shard, under one lock.
    #[inline]
    pub(super) fn of_quota(self, quota: u64) -> Self {
        Self {
            high: self.high ^ quota,
            low: self.low,
        }
    }

    /// Bits that the table does not look at first.
    #[inline]
    #[allow(clippy::cast_possible_truncation)]
    pub(super) fn shard(self, shards: usize) -> usize {
        (self.high >> 32) as usize & (shards - 1)
    }

    #[inline]
    pub(super) fn hash(self) -> u64 {
        self.high ^ (u64::from(self.low) << 32 | u64::from(self.low))
    }
}
