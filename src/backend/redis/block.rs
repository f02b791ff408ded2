//! The key of a block, and the requests that read or write it.

use super::super::LONGEST_BLOCK;
use super::answer::unsigned;
use super::request::OpRequest;
use super::transport::Value;
use crate::clock::micros_up;
use crate::decision::{Op, Reply};
use crate::quota::Cost;

impl OpRequest {
    /// Returns the length of the block to write in µs, 0 to end one; `None` for an operation of quotas.
    pub(super) fn new_block(&self) -> Option<u64> {
        match self.op {
            Op::Block(span) => Some(micros_up(span).min(LONGEST_BLOCK)),
            Op::Unblock => Some(0),
            _ => None,
        }
    }

    /// Returns whether it is denied if the key is blocked.
    pub(super) const fn reads_block(&self) -> bool {
        matches!(
            self.op,
            Op::Check(_) | Op::Reserve { .. } | Op::CheckUpTo(_)
        )
    }

    /// Returns the denial of a blocked key, with the rest of the block in µs.
    pub(super) fn denied_by_block(&self, rest: u64) -> Reply {
        let cost = Cost::from_fn(self.quotas().each.len(), |index| match self.op {
            Op::CheckUpTo(most) => most.min(1),
            _ => self.cost(index),
        });
        Reply::of_blocked_key(&self.policy, &cost, rest)
    }

    /// Reads the denial of a blocked key: -3 and the rest in µs.
    pub(super) fn read_block(&self, answer: &[Value]) -> Option<Reply> {
        match answer {
            [Value::Integer(-3), rest, ..] => Some(self.denied_by_block(unsigned(rest)?)),
            _ => None,
        }
    }

    /// Returns the number of its keys of blocks: one for each scope, if it reads or writes blocks.
    pub(super) fn block_count(&self) -> usize {
        if self.reads_block() || self.new_block().is_some() {
            self.policy.scopes()
        } else {
            0
        }
    }
}
