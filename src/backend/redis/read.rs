//! How the reply to an operation is read.

use std::time::Duration;

use smallvec::SmallVec;

use super::super::BackendError;
use super::answer::{signed, state, unsigned};
use super::error::{from_reason, script_error};
use super::request::OpRequest;
use super::transport::Value;
use crate::algorithm::{self, State};
use crate::decision::{
    ChargePart, ChargePosition, NEVER, Op, QuotaSnapshot, Reply, Reservation, Snapshot,
};
use crate::quota::Rule;

impl OpRequest {
    /// Reads the reply to this request from the replies of a script. Returns `None` if their form is unknown.
    pub(super) fn read(
        &self,
        answers: &mut std::slice::Iter<'_, Value>,
    ) -> Option<Result<Reply, BackendError>> {
        if self.is_plain_check() {
            return self.read_check(answers);
        }
        let Value::Array(own) = answers.next()? else {
            return None;
        };
        if let Some(fault) = script_error(own) {
            return Some(Err(fault));
        }
        if self.block_span().is_some() {
            let mut reply = Reply::of_unused_key(&self.policy);
            reply.wait = Duration::from_micros(unsigned(own.first()?)?); // 0 unless a block was read
            return Some(Ok(reply));
        }
        if let Some((rests, numbers)) = self.read_blocks(own) {
            let numbers = numbers.chunks_exact(4).enumerate();
            let numbers = numbers.map(|(index, own)| Some(self.snapshot(index, own)?.0));
            let numbers: Option<SmallVec<[QuotaSnapshot; 2]>> = numbers.collect();
            return Some(Ok(self.denied_by_blocks(&rests, &numbers?)));
        }
        let (first, rest) = own.split_first()?;
        let own_number = unsigned(first)?;
        let mut snapshots = SmallVec::new();
        let mut charges = SmallVec::new();
        let (numbers, left) = rest.split_at_checked(4 * self.quotas().each.len())?;
        let mut since = SmallVec::<[u64; 2]>::new();
        for (index, numbers) in numbers.chunks_exact(4).enumerate() {
            let (mut snapshot, position) = self.snapshot(index, numbers)?;
            if matches!(self.op, Op::Cancel(_)) {
                since.push(snapshot.retry_after);
                snapshot.retry_after = 0;
            }
            snapshots.push(snapshot);
            let tokens = match self.op {
                Op::CheckUpTo(most) => most.min(own_number),
                _ => self.cost(index),
            };
            charges.push(self.charged(index, tokens, position));
        }
        let mut reply = Reply::to_check(Snapshot::new(snapshots), || charges);
        match &self.op {
            Op::Check(_) | Op::CheckUpTo(_) => {}
            Op::Reserve { cost, .. } => {
                reply.wait = Duration::from_micros(own_number);
                if self.quotas().of_buckets && reply.decision.is_allowed() {
                    let left: Option<SmallVec<[Option<State>; 2]>> =
                        left.iter().map(state).collect();
                    reply.reservation =
                        Some(Reservation::new(cost.clone(), &left?, reply.receipt.take()));
                }
            }
            Op::Cancel(reservation) => {
                reply.receipt = None;
                reply.returned = since.contains(&0) && !since.contains(&1);
                reply.reservation = (!reply.returned).then(|| reservation.again());
            }
            _ => reply.receipt = None,
        }
        Some(Ok(reply))
    }

    /// Reads the reply to a check of one quota.
    fn read_check(
        &self,
        answers: &mut std::slice::Iter<'_, Value>,
    ) -> Option<Result<Reply, BackendError>> {
        let (snapshot, position) =
            if let Rule::TokenBucket(bucket) = &self.policy.quotas()[0].quota().rule {
                let (debt, ahead) = match answers.next()? {
                    Value::Integer(debt) => (*debt, 0),
                    Value::Array(parts) => match parts.as_slice() {
                        [Value::Integer(debt), ahead] => (*debt, unsigned(ahead)?),
                        [Value::Bytes(why)] => return Some(Err(from_reason(why))),
                        [Value::Bytes(_), rest] => {
                            return Some(Ok(self.denied_by_blocks(&[unsigned(rest)?], &[])));
                        }
                        _ => return None,
                    },
                    _ => return None,
                };
                let owed = algorithm::snapshot_of_debt(bucket, debt, ahead, self.cost(0))?;
                (owed, 0)
            } else {
                // A charge to a bucket has no position.
                let width = if self.quotas().of_buckets { 3 } else { 4 };
                let (own, rest) = answers.as_slice().split_at_checked(width)?;
                *answers = rest.iter();
                if let Some(fault) = script_error(own) {
                    return Some(Err(fault));
                }
                if let Some((rests, _)) = self.read_blocks(own) {
                    return Some(Ok(self.denied_by_blocks(&rests, &[])));
                }
                self.snapshot(0, own)?
            };
        let charge = self.charged(0, self.cost(0), position);
        Some(Ok(Reply::to_check_of_one(snapshot, charge)))
    }

    fn charged(&self, index: usize, tokens: u64, at: i64) -> ChargePart {
        let quota = self.policy.quotas()[index].mark();
        ChargePart::new(quota, tokens, ChargePosition { at, number: 0 })
    }

    fn snapshot(&self, index: usize, numbers: &[Value]) -> Option<(QuotaSnapshot, i64)> {
        let ([retry, remaining, reset], position) = numbers.split_first_chunk()?;
        let snapshot = QuotaSnapshot {
            limit: self.policy.quotas()[index].quota().limit(),
            remaining: unsigned(remaining)?,
            retry_after: match signed(retry)? {
                -1 => NEVER,
                wait => u64::try_from(wait).ok()?,
            },
            reset_after: match signed(reset)? {
                -1 => NEVER,
                reset => u64::try_from(reset).ok()?,
            },
        };
        let position = position.first().map_or(Some(0), signed)?;
        Some((snapshot, position))
    }
}
