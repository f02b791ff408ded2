use std::fmt;
use std::time::Duration;

use ahash::RandomState;
use smallvec::SmallVec;

use super::Permits;
use crate::backend::{Answer, Lobby};
use crate::decision::{Decision, QuotaSnapshot, Snapshot};
use crate::key::Key;

/// What names a permit: 128 bits that its holder makes before it asks. Who knows them can release it, so they are not printed.
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
pub enum Op {
    /// Takes a permit of this weight now, or nothing. The same id again, while its permit lasts, is the same permit with its
    /// first weight, and renews its lease. Weight 0 looks.
    Acquire {
        /// What names the permit.
        id: PermitId,
        /// How many permits it counts for.
        weight: u32,
    },
    /// The same for one who waits: those who came earlier go first, in other processes too. Who is refused has a place in the
    /// line, by the time that he has waited, for long enough to ask again; [`Release`](Self::Release) gives it up.
    Wait {
        /// What names the permit.
        id: PermitId,
        /// How many permits it counts for.
        weight: u32,
        /// How long he has waited already.
        waited: Duration,
    },
    /// Lets the leases of these begin again, as far as they last; what is over stays over.
    Renew(SmallVec<[PermitId; 1]>),
    /// Gives a permit back, and a place in the line.
    Release(PermitId),
    /// Looks, and changes nothing.
    Peek,
}

/// What a semaphore's backend answers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "the decision is in the reply"]
#[non_exhaustive]
pub struct Reply {
    /// Whether there is a permit, and the numbers after it: the capacity, permits that remain, of a refusal when enough leases
    /// will have ended by themselves (a hint: releases come sooner, renewals later), and when the last one will.
    pub decision: Decision,
    /// Of each id of a renewal whether its permit lasts; of a release whether there was something to give back.
    pub lasting: SmallVec<[bool; 1]>,
    /// What stands in line in front of one who waits, in permits; those behind him in his own process do not count.
    pub in_front: u32,
}

impl Reply {
    /// An answer in numbers, for a backend that decides by itself.
    pub fn of(numbers: QuotaSnapshot) -> Self {
        Self {
            decision: Decision::of(Snapshot::single(numbers)),
            lasting: SmallVec::new(),
            in_front: 0,
        }
    }
}

/// Keeps who holds which permit. Clones share their state.
///
/// Operations on one key take effect one at a time, in every process that shares the state.
pub trait Backend: Clone + Send + Sync + 'static {
    /// Why there is no answer; [`Infallible`](std::convert::Infallible) if there always is.
    type Error: std::error::Error + Send + Sync + 'static;
    /// What [`Answer::Later`] holds.
    type Future: Future<Output = Result<Reply, Self::Error>> + Send + 'static;

    /// Does `op` to the permits of `key`.
    fn ask(
        &self,
        op: Op,
        permits: &Permits,
        key: &Key,
    ) -> Answer<Result<Reply, Self::Error>, Self::Future>;

    /// Where those wait who use it, and what renews their permits: the same one for all clones, and for no other backend.
    fn lobby(&self) -> &Lobby;

    /// Whether permits end with their lease, and so have to be renewed.
    fn has_leases(&self) -> bool;

    /// When one who waits should ask again although nobody in this process has released anything; `None` if nobody else can.
    /// `reply` is the refusal, and `waiters` how many wait here for the same key, he included.
    fn next_look(&self, permits: &Permits, reply: &Reply, waiters: usize) -> Option<Duration>;

    /// Whether it blocks the thread that asks: then it is not asked by tasks, and a thread of its own renews permits.
    fn blocks(&self) -> bool {
        false
    }

    /// An id for a new permit; one that nobody can guess, unless it stays in the process.
    fn new_id(&self) -> PermitId {
        PermitId::random()
    }
}
