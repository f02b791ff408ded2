//! One operation: how it is written into a command, and how its reply is read.

use std::fmt;
use std::sync::Arc;

use smallvec::SmallVec;

use super::super::BackendError;
use super::calendar_edges::EdgeTime;
use super::key_name::KeyNames;
use super::packed_quotas::{Algorithms, BLOCK_SUFFIX, PackedQuotas};
use super::script::{Script, ScriptKind};
use super::transport::{Command, Value};
use crate::algorithm::stored;
use crate::clock::micros_up;
use crate::decision::{ChargePart, ChargePosition, Op, Receipt, Reply};
use crate::policy::Policy;

/// A request that a script runs, alone or in a batch of requests with the same script.
pub(super) trait ScriptRequest: fmt::Debug + Send + Sync + 'static {
    /// The reply to one request.
    type Reply: fmt::Debug + Send + 'static;
    /// Whether the request may be sent again after a missing reply: running it twice has the effect of running it once.
    const IS_REPEATABLE: bool;

    /// Returns whether it renews a lease, which would end while the circuit is open.
    fn is_renewal(&self) -> bool {
        false
    }

    /// Notes in the reply that the request was sent again after a missing reply.
    fn note_repeat(_: &mut Self::Reply) {}

    /// Returns whether the reply proves that the server has written.
    fn wrote(&self, reply: &Self::Reply) -> bool;
    /// Returns its script.
    fn script(&self) -> &'static Script;
    /// Returns the command for `requests`, which have the same script: `EVALSHA` with its hash, or `EVAL` with its
    /// text.
    fn command(name: &str, script: &str, requests: &[&Self], expiry: Expiry) -> Command;
    /// Reads the reply to this request from the replies of a script. Returns `None` if their form is unknown.
    fn read(
        &self,
        answers: &mut std::slice::Iter<'_, Value>,
    ) -> Option<Result<Self::Reply, BackendError>>;
}

impl ScriptRequest for OpRequest {
    type Reply = Reply;
    /// A request that is charged twice is worse than a lost request that was charged.
    const IS_REPEATABLE: bool = false;

    fn wrote(&self, reply: &Reply) -> bool {
        self.wrote(reply)
    }

    fn script(&self) -> &'static Script {
        self.script()
    }

    fn command(name: &str, script: &str, requests: &[&Self], expiry: Expiry) -> Command {
        Self::command(name, script, requests, expiry)
    }

    fn read(
        &self,
        answers: &mut std::slice::Iter<'_, Value>,
    ) -> Option<Result<Reply, BackendError>> {
        let outcome = self.read(answers)?;
        self.note_time(&outcome);
        Some(outcome)
    }
}

/// A request that its sender keeps, to send it to another node.
impl<R: ScriptRequest> ScriptRequest for Arc<R> {
    type Reply = R::Reply;
    const IS_REPEATABLE: bool = R::IS_REPEATABLE;

    fn is_renewal(&self) -> bool {
        (**self).is_renewal()
    }

    fn note_repeat(reply: &mut R::Reply) {
        R::note_repeat(reply);
    }

    fn wrote(&self, reply: &R::Reply) -> bool {
        (**self).wrote(reply)
    }

    fn script(&self) -> &'static Script {
        (**self).script()
    }

    fn command(name: &str, script: &str, requests: &[&Self], expiry: Expiry) -> Command {
        let requests: SmallVec<[&R; 1]> = requests.iter().map(|request| &***request).collect();
        R::command(name, script, &requests, expiry)
    }

    fn read(
        &self,
        answers: &mut std::slice::Iter<'_, Value>,
    ) -> Option<Result<R::Reply, BackendError>> {
        (**self).read(answers)
    }
}

/// An operation on the keys of these names.
#[derive(Debug)]
pub(super) struct OpRequest {
    pub(super) op: Op,
    pub(super) policy: Policy,
    pub(super) names: KeyNames,
    /// Set if a quota of the policy is a calendar window.
    pub(super) time: Option<EdgeTime>,
}

/// The time for which keys are kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expiry {
    /// The shortest expiry of a key, ms.
    pub(super) floor: u64,
    /// The time for which a bucket that starts below its capacity is kept after it has filled, ms.
    pub(super) idle: u64,
}

/// The longest wait that a script accepts, µs.
const LONGEST: u64 = 1 << 53;

impl OpRequest {
    pub(super) fn quotas(&self) -> &PackedQuotas {
        PackedQuotas::for_policy(&self.policy)
    }

    /// Returns its script. Requests with the same script can share a batch.
    pub(super) fn script(&self) -> &'static Script {
        let task = match self.op {
            _ if self.is_plain_check() => ScriptKind::Check,
            Op::CheckUpTo(_) => ScriptKind::UpTo,
            Op::Block(_) | Op::Unblock => {
                return Script::get(ScriptKind::Block, Algorithms::default());
            }
            Op::Check(_) | Op::Reserve { .. } => ScriptKind::Several,
            Op::Cancel(_) => ScriptKind::Cancel,
            Op::Penalize(_) => ScriptKind::Penalize,
            Op::Refund(_) => ScriptKind::Refund,
            Op::Reset => ScriptKind::Reset,
        };
        Script::get(task, self.quotas().algorithms)
    }

    /// Returns whether it is a check of one quota. Under a window a reservation is a check.
    pub(super) fn is_plain_check(&self) -> bool {
        let quotas = self.quotas();
        let checks = match self.op {
            Op::Check(_) => true,
            Op::Reserve { .. } => !quotas.of_buckets,
            _ => false,
        };
        checks && quotas.each.len() == 1
    }

    /// Returns the command for `requests`, which have the same script: `EVALSHA` with its hash, or `EVAL` with its
    /// text.
    pub(super) fn command(name: &str, script: &str, requests: &[&Self], expiry: Expiry) -> Command {
        let keys: usize = requests.iter().map(|request| request.key_count()).sum();
        let bytes = 128 + script.len() + 128 * keys;
        let mut command = Command::with_capacity(name, 5 + 4 * keys, bytes);
        command.arg(script).number(keys);
        for request in requests {
            request.write_keys(&mut command);
        }
        // The first argument is the time, which only tests set. The server's own time counts.
        command.arg("").number(expiry.floor).number(expiry.idle);
        Self::write_all_args(requests, &mut command);
        command
    }

    fn key_count(&self) -> usize {
        match self.new_block() {
            Some(_) => self.block_count(),
            None => self.quotas().each.len() + self.block_count(),
        }
    }

    fn write_keys(&self, command: &mut Command) {
        let is_block = self.new_block().is_some();
        for quota in self.quotas().each.iter().filter(|_| !is_block) {
            command.joined(self.names.get(quota.scope), quota.suffix.as_bytes());
        }
        for name in self.names.each(self.block_count()) {
            command.joined(name, BLOCK_SUFFIX);
        }
    }

    /// Writes the arguments behind the keys of `requests`, which have the same script.
    fn write_all_args(requests: &[&Self], command: &mut Command) {
        if requests.first().is_some_and(|first| first.is_plain_check()) {
            for run in requests.chunk_by(|one, next| one.is_same_check(next)) {
                let numbers = run[0].numbers(&run[0].quotas().each[0]);
                command
                    .arg(&*numbers)
                    .number(run[0].cost(0))
                    .number(run.len());
            }
        } else {
            for request in requests {
                request.write_args(command);
            }
        }
    }

    fn is_same_check<'a>(&'a self, other: &'a Self) -> bool {
        let numbers = |request: &'a Self| request.numbers(&request.quotas().each[0]);
        self.cost(0) == other.cost(0)
            && (self.time.is_none() && self.policy.is(&other.policy)
                || numbers(self) == numbers(other))
    }

    fn write_args(&self, command: &mut Command) {
        if let Some(span) = self.new_block() {
            for _ in 0..self.block_count() {
                command.number(span);
            }
            return;
        }
        let quotas = self.quotas();
        command.number(quotas.each.len());
        match self.op {
            Op::Reserve { max_wait, .. } if quotas.of_buckets => {
                command.number(micros_up(max_wait).min(LONGEST))
            }
            _ => command.number(-1),
        };
        command.number(self.block_count());
        for (index, quota) in quotas.each.iter().enumerate() {
            command.arg(&*self.numbers(quota));
            match &self.op {
                Op::Refund(receipt) => {
                    let charge = self.charge(receipt, index);
                    command.number(charge.tokens).number(charge.position().at);
                }
                Op::Cancel(reservation) => {
                    let left = reservation
                        .left(index)
                        .and_then(|left| stored::encode(left, 0));
                    command
                        .number(reservation.cost().get(index))
                        .arg(left.unwrap_or_default());
                }
                _ => {
                    command.number(self.cost(index)).arg("");
                }
            }
        }
    }

    /// Returns the charge of a receipt to the quota at `index`, or an empty charge if the receipt is of another quota.
    fn charge(&self, receipt: &Receipt, index: usize) -> ChargePart {
        let quota = self.policy.quotas()[index].mark();
        let found = receipt.charges.iter().find(|charge| charge.quota == quota);
        let none = ChargePart::new(quota, 0, ChargePosition::default());
        found.copied().unwrap_or(none)
    }

    /// Returns whether it charges the quota at `index` unconditionally.
    pub(super) fn is_penalty(&self, index: usize) -> bool {
        matches!(&self.op, Op::Penalize(cost) if cost.get(index) > 0)
    }

    /// Returns whether the reply proves that the server has written.
    pub(super) fn wrote(&self, reply: &Reply) -> bool {
        reply.decision.is_allowed()
            && (0..self.quotas().each.len()).any(|index| self.cost(index) > 0)
    }

    pub(super) fn cost(&self, index: usize) -> u64 {
        match &self.op {
            Op::CheckUpTo(most) => *most,
            Op::Check(cost) | Op::Penalize(cost) | Op::Reserve { cost, .. } => cost.get(index),
            Op::Cancel(_) | Op::Refund(_) | Op::Reset | Op::Block(_) | Op::Unblock => 0,
        }
    }
}
