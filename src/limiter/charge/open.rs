use std::sync::Arc;

use smallvec::SmallVec;

use super::settle::Settle;
use crate::decision::{Op, Receipt};
use crate::key::Key;
use crate::quota::Cost;

/// The part of a charge that can be settled.
pub(super) struct OpenCharge {
    pub(super) settler: Arc<dyn Settle>,
    pub(super) key: Key,
    /// The sum of all receipts.
    pub(super) cost: Cost,
    pub(super) receipt: Option<Receipt>,
    /// The receipts of inner layers.
    pub(super) more: Vec<Receipt>,
}

impl OpenCharge {
    /// The operations that refund the excess over `cost`, from the latest charge first.
    pub(super) fn give_back(&mut self, cost: &Cost, quotas: usize) -> SmallVec<[Op; 2]> {
        let mut left = self.cost.with(cost, quotas, u64::saturating_sub);
        let mut ops = SmallVec::new();
        for receipt in self.more.iter_mut().rev().chain(&mut self.receipt) {
            if left.is_zero() {
                break;
            }
            let part = receipt.take(left.clone());
            let cost = part.cost();
            if !cost.is_zero() {
                left = left.with(&cost, quotas, u64::saturating_sub);
                ops.push(Op::Refund(part));
            }
        }
        ops
    }
}
