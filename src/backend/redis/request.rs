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
    pub(super) blocks: BlockKeys,
}

/// The keys of blocks among the keys of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockKeys {
    /// The keys of the blocks that the operation reads. A decision reads one for each scope.
    All,
    /// None. The request before has read them.
    #[cfg(feature = "cluster")]
    Read,
    /// The key of the block of this scope, which the request reads, and no other key.
    #[cfg(feature = "cluster")]
    Only(usize),
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
    pub(super) fn new(op: Op, policy: &Policy, names: impl Into<KeyNames>) -> Self {
        Self {
            op,
            policy: policy.clone(),
            names: names.into(),
            time: None,
            blocks: BlockKeys::All,
        }
    }

    pub(super) fn quotas(&self) -> &PackedQuotas {
        PackedQuotas::for_policy(&self.policy)
    }

    /// Returns its script. Requests with the same script can share a batch.
    pub(super) fn script(&self) -> &'static Script {
        if self.block_span().is_some() {
            return Script::get(ScriptKind::Block, Algorithms::default());
        }
        let task = match self.op {
            _ if self.is_plain_check() => ScriptKind::Check,
            Op::CheckUpTo(_) => ScriptKind::UpTo,
            Op::Check(_) | Op::Reserve { .. } => ScriptKind::Several,
            Op::Cancel(_) => ScriptKind::Cancel,
            Op::Penalize(_) => ScriptKind::Penalize,
            Op::Refund(_) => ScriptKind::Refund,
            Op::Reset | Op::Block(_) | Op::Unblock => ScriptKind::Reset,
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
        checks && quotas.each.len() == 1 && self.block_span().is_none()
    }

    /// Returns the command for `requests`, which have the same script: `EVALSHA` with its hash, or `EVAL` with its
    /// text.
    pub(super) fn command(name: &str, script: &str, requests: &[&Self], expiry: Expiry) -> Command {
        let is_of_blocks = requests
            .first()
            .is_some_and(|first| first.block_span().is_some());
        let blocks: usize = requests
            .iter()
            .map(|request| request.block_scopes().count())
            .sum();
        let quotas: usize = match is_of_blocks {
            true => 0,
            false => requests
                .iter()
                .map(|request| request.quotas().each.len())
                .sum(),
        };
        let keys = quotas + blocks;
        let bytes = 128 + script.len() + 128 * keys;
        let mut command = Command::with_capacity(name, 6 + 4 * keys, bytes);
        command.arg(script).number(keys);
        for request in requests.iter().filter(|_| !is_of_blocks) {
            for quota in &request.quotas().each {
                command.joined(request.names.get(quota.scope), quota.suffix.as_bytes());
            }
        }
        for request in requests {
            for scope in request.block_scopes() {
                command.joined(request.names.get(scope), BLOCK_SUFFIX);
            }
        }
        // The first argument is the time, which only tests set. The server's own time counts.
        command.arg("").number(expiry.floor).number(expiry.idle);
        if is_of_blocks {
            for span in requests.iter().filter_map(|request| request.block_span()) {
                command.number(span);
            }
            return command;
        }
        command.number(blocks);
        Self::write_all_args(requests, &mut command);
        command
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
        let quotas = self.quotas();
        command.number(quotas.each.len());
        match self.op {
            Op::Reserve { max_wait, .. } if quotas.of_buckets => {
                command.number(micros_up(max_wait).min(LONGEST))
            }
            _ => command.number(-1),
        };
        command.number(self.block_scopes().count());
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
