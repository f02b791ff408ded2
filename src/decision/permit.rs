use std::fmt;
use std::time::Duration;

use ahash::RandomState;
use smallvec::SmallVec;

use super::Decision;
use super::snapshot::{QuotaSnapshot, Snapshot};

/// The identity of a permit: 128 bits that the holder chooses before it acquires the permit.
///
/// Any caller that has the id can release the permit, so `Debug` does not print the bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PermitId([u8; 16]);

impl PermitId {
    /// Creates an id from its bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Creates an unguessable id, from the random source of the operating system.
    #[must_use]
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        if getrandom::fill(&mut bytes).is_err() {
            // The source fails on no known system once it runs. Hash seeds were drawn from it at start.
            for half in bytes.chunks_exact_mut(8) {
                half.copy_from_slice(&RandomState::new().hash_one(half.len()).to_le_bytes());
            }
        }
        Self(bytes)
    }

    /// Returns the bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for PermitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PermitId(..)")
    }
}

/// An operation on the permits of one key, the request to a [`PermitBackend`](crate::backend::PermitBackend).
///
/// More operations may be added. A backend that matches on them needs a wildcard arm, and should return its error from
/// it: the failure policy then applies.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PermitOp {
    /// Acquires a permit of this weight if it is available now. Weight 0 only reads.
    ///
    /// If a permit of this id exists, it keeps its weight and its lease is renewed.
    Acquire {
        /// The identity of the permit.
        id: PermitId,
        /// The number of permits that it counts for.
        weight: u32,
    },
    /// Acquires a permit for a waiter. Waiters are served in order of arrival, across processes.
    ///
    /// A denied waiter keeps its place in the queue until it asks again, for a bounded time.
    /// [`Release`](Self::Release) gives the place up.
    Wait {
        /// The identity of the permit.
        id: PermitId,
        /// The number of permits that it counts for.
        weight: u32,
        /// The time that the waiter has waited so far. It decides the place in the queue.
        waited: Duration,
    },
    /// Renews the leases of these permits. An expired lease stays expired.
    Renew(Vec<PermitId>),
    /// Releases a permit, and a place in the queue.
    Release(PermitId),
    /// Releases a permit whose request has an unknown outcome or was sent more than once. A copy of the request that
    /// arrives later is denied, for one lease.
    Revoke(PermitId),
    /// Reads the numbers and changes nothing.
    Peek,
}

/// The answer of a [`PermitBackend`](crate::backend::PermitBackend).
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a reply holds the decision"]
#[non_exhaustive]
pub struct PermitReply {
    /// The decision and the numbers after it:
    ///
    /// - `limit`: the capacity.
    /// - `remaining`: the permits that are left.
    /// - `retry_after` of a denial: the time until enough leases expire. A hint only: a release comes sooner, a renewal
    ///   moves it.
    /// - `reset_after`: the time until the last lease expires.
    pub decision: Decision,
    pub(crate) lasting: SmallVec<[bool; 1]>,
    /// The permits that waiters ahead of this one request. Waiters behind it in the same process do not count.
    pub in_front: u32,
    /// Whether the request was sent more than once, so that a copy may arrive later.
    pub(crate) is_repeated: bool,
}

impl PermitReply {
    /// Creates a reply from its numbers, for a backend that decides by itself.
    pub fn from_snapshot(numbers: QuotaSnapshot) -> Self {
        Self {
            decision: Decision::from_snapshot(Snapshot::single(numbers)),
            lasting: SmallVec::new(),
            in_front: 0,
            is_repeated: false,
        }
    }

    /// Returns, for each id of a renewal, whether its permit still exists. For a release or a revocation there is one
    /// value: whether the permit existed. Empty for other operations.
    #[must_use]
    pub fn lasting(&self) -> &[bool] {
        &self.lasting
    }

    /// Sets the values of [`lasting`](Self::lasting), for a backend that decides by itself.
    pub fn with_lasting(mut self, lasting: impl IntoIterator<Item = bool>) -> Self {
        self.lasting = lasting.into_iter().collect();
        self
    }
}
