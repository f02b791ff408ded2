use std::fmt;
use std::time::Duration;

use ahash::RandomState;
use smallvec::SmallVec;

use super::Decision;
use super::snapshot::{QuotaSnapshot, Snapshot};

/// What names a permit: 128 bits that its holder makes before it asks. Who knows them can release it, so they are not
/// printed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PermitId([u8; 16]);

impl PermitId {
    /// An id of these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// An id that nobody can guess.
    #[must_use]
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        if getrandom::fill(&mut bytes).is_err() {
            // No system is known to fail once it runs. Seeds that were drawn at its start are the next best thing.
            for half in bytes.chunks_exact_mut(8) {
                half.copy_from_slice(&RandomState::new().hash_one(half.len()).to_le_bytes());
            }
        }
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// Shows that there is an id, not which.
impl fmt::Debug for PermitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PermitId(..)")
    }
}

/// What is asked of a semaphore's backend, of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PermitOp {
    /// Takes a permit of this weight now, or nothing. The same id again, while its permit lasts, is the same permit
    /// with its first weight, and renews its lease. Weight 0 looks.
    Acquire {
        /// What names the permit.
        id: PermitId,
        /// How many permits it counts for.
        weight: u32,
    },
    /// The same for one who waits: those who came earlier go first, in other processes too. Who is denied has a place
    /// in the line, by the time that he has waited, for long enough to ask again; [`Release`](Self::Release) gives it
    /// up.
    Wait {
        /// What names the permit.
        id: PermitId,
        /// How many permits it counts for.
        weight: u32,
        /// How long he has waited already.
        waited: Duration,
    },
    /// Lets the leases of these begin again, as far as they last; what is over stays over.
    Renew(Vec<PermitId>),
    /// Gives a permit back, and a place in the line.
    Release(PermitId),
    /// The same if the outcome of a request for this permit is unknown, or if it was sent more than once. A copy that
    /// arrives later is denied, for one lease.
    Revoke(PermitId),
    /// Looks, and changes nothing.
    Peek,
}

/// What a semaphore's backend answers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "the decision is in the reply"]
#[non_exhaustive]
pub struct PermitReply {
    /// Whether there is a permit, and the numbers after it: the capacity, permits that remain, of a denial when enough
    /// leases will have ended by themselves (a hint: releases come sooner, renewals later), and when the last one will.
    pub decision: Decision,
    pub(crate) lasting: SmallVec<[bool; 1]>,
    /// What stands in line in front of one who waits, in permits; those behind him in his own process do not count.
    pub in_front: u32,
    /// Whether the request was sent more than once: a copy of it may arrive later.
    pub(crate) is_repeated: bool,
}

impl PermitReply {
    /// An answer in numbers, for a backend that decides by itself.
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
