use std::hash::{BuildHasher, Hasher};

use ahash::RandomState;

use crate::key::KeyRef;

/// A hash function with a random seed, so that clients cannot choose keys that collide or share a shard.
pub(in crate::backend) struct Fingerprints(RandomState);

/// The hash of a key, or of a key under one limit. Two keys have the same one with a probability of 2^-64. A new key
/// has the fingerprint of one of a million other keys with a probability of 5 in 10^14.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend) struct Fingerprint(u64);

impl Fingerprints {
    pub(in crate::backend) fn new() -> Self {
        Self(RandomState::new())
    }

    #[inline(always)] // a call would pass the key through memory
    pub(in crate::backend) fn fingerprint<'k>(&self, key: impl Into<KeyRef<'k>>) -> Fingerprint {
        let key = key.into();
        let mut hasher = self.0.build_hasher();
        hasher.write(key.as_bytes());
        // A constant separates secret keys, because one more round of the hash would double its time.
        let secret = if key.is_secret() {
            0x9E37_79B9_7F4A_7C15
        } else {
            0
        };
        Fingerprint(hasher.finish() ^ secret)
    }

    /// Returns the fingerprint of a key that belongs to the key `outermost` of the policy `name`.
    pub(in crate::backend) fn fingerprint_within(
        &self,
        name: &str,
        outermost: KeyRef<'_>,
        key: KeyRef<'_>,
    ) -> Fingerprint {
        Fingerprint(self.0.hash_one((name, outermost, key)))
    }
}

impl Fingerprint {
    /// Returns the fingerprint of the same key under one limit. All limits of a key stay in one shard, under one lock.
    #[inline]
    pub(in crate::backend) fn under(self, limit: u64) -> Self {
        Self(self.0 ^ limit)
    }

    /// Returns the shard, from bits that the table does not use first.
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
