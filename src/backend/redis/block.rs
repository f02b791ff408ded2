//! The keys of blocks: the requests that read or write them, and the denial of a blocked key.

use smallvec::SmallVec;

use super::super::LONGEST_BLOCK;
use super::answer::unsigned;
use super::request::{BlockKeys, OpRequest};
use super::transport::Value;
use crate::clock::micros_up;
use crate::decision::{Op, QuotaSnapshot, Reply};
use crate::quota::Cost;

/// The rest of the block of each scope in µs, 0 for none.
pub(super) type BlockRests = SmallVec<[u64; 1]>;

impl OpRequest {
    /// Returns the length of the block to write in µs, 0 to end it, -1 to read it. Returns `None` for an operation on
    /// quotas.
    pub(super) fn block_span(&self) -> Option<i64> {
        match (self.blocks, &self.op) {
            #[cfg(feature = "cluster")]
            (BlockKeys::Only(_), _) => Some(-1),
            (_, Op::Block(span)) => i64::try_from(micros_up(*span).min(LONGEST_BLOCK)).ok(),
            (_, Op::Unblock) => Some(0),
            _ => None,
        }
    }

    /// Returns the same decision with these keys of blocks.
    #[cfg(feature = "cluster")]
    pub(super) fn part(&self, blocks: BlockKeys) -> Self {
        let op = match &self.op {
            Op::Reserve { cost, max_wait } => Op::Reserve {
                cost: cost.clone(),
                max_wait: *max_wait,
            },
            Op::Check(cost) => Op::Check(cost.clone()),
            Op::CheckUpTo(most) => Op::CheckUpTo(*most),
            // No other operation has parts.
            _ => Op::Check(Cost::ZERO),
        };
        Self {
            op,
            policy: self.policy.clone(),
            names: self.names.clone(),
            time: self.time.clone(),
            blocks,
        }
    }

    /// Returns whether it is denied if the key is blocked.
    pub(super) const fn is_decision(&self) -> bool {
        matches!(
            self.op,
            Op::Check(_) | Op::Reserve { .. } | Op::CheckUpTo(_)
        )
    }

    /// Returns the scopes whose block is one of its keys. A block is written for the innermost scope.
    pub(super) fn block_scopes(&self) -> impl Iterator<Item = usize> {
        let scopes = match self.blocks {
            BlockKeys::All if self.is_decision() => 0..self.policy.scopes(),
            BlockKeys::All if self.block_span().is_some() => 0..1,
            BlockKeys::All => 0..0,
            #[cfg(feature = "cluster")]
            BlockKeys::Read => 0..0,
            #[cfg(feature = "cluster")]
            BlockKeys::Only(scope) => scope..scope + 1,
        };
        scopes.filter(|scope| self.policy.can_be_blocked(*scope))
    }

    /// Returns the rests of all scopes from those that were read, in the order of [`block_scopes`](Self::block_scopes).
    pub(super) fn rests_of_scopes(&self, read: impl IntoIterator<Item = u64>) -> BlockRests {
        let mut rests = BlockRests::from_elem(0, self.policy.scopes());
        for (scope, rest) in self.block_scopes().zip(read) {
            rests[scope] = rest;
        }
        rests
    }

    /// Returns the denial of a request with blocked scopes. `numbers` are the answers of all quotas. A policy of one
    /// quota needs none.
    pub(super) fn denied_by_blocks(&self, rests: &[u64], numbers: &[QuotaSnapshot]) -> Reply {
        Reply::of_blocked_scopes(&self.policy, &self.denied_cost(), rests, numbers)
    }

    /// Returns the smallest cost that it could have charged.
    pub(super) fn denied_cost(&self) -> Cost {
        Cost::from_fn(self.quotas().each.len(), |index| match self.op {
            Op::CheckUpTo(most) => most.min(1),
            _ => self.cost(index),
        })
    }

    /// Reads the rests of the blocks from the answer for a request with blocked scopes, and returns them with what
    /// follows. Returns `None` for another answer.
    pub(super) fn read_blocks<'a>(&self, answer: &'a [Value]) -> Option<(BlockRests, &'a [Value])> {
        let (Value::Integer(-3), rest) = answer.split_first()? else {
            return None;
        };
        let (rests, numbers) = rest.split_at_checked(self.block_scopes().count())?;
        let rests: Option<BlockRests> = rests.iter().map(unsigned).collect();
        Some((self.rests_of_scopes(rests?), numbers))
    }
}
