//! One operation on its way: how it is written into a command, and its answer read.

use std::fmt;
use std::time::Duration;

use bb8_redis::redis::{Cmd, Value};
use smallvec::SmallVec;

use super::super::BackendError;
use super::error::from_text;
use super::key_name::KeyName;
use super::packed_quotas::PackedQuotas;
use super::script::{Script, ScriptKind};
use crate::algorithm::{State, stored};
use crate::clock::micros_up;
use crate::decision::{
    ChargePart, ChargePosition, NEVER, Op, QuotaSnapshot, Receipt, Reply, Reservation, Snapshot,
};
use crate::policy::Policy;

/// What is asked of Redis by a script, alone or with others of the same script.
pub(super) trait ScriptRequest: fmt::Debug + Send + Sync + 'static {
    /// What is answered.
    type Reply: fmt::Debug + Send + 'static;
    /// Whether it may be sent again although it may have been done: done twice it is as if done once.
    const IS_REPEATABLE: bool;

    /// Whether it keeps what would end while Redis is left alone.
    fn is_renewal(&self) -> bool {
        false
    }

    /// Notes in the answer that the request was sent more than once although it may have been done.
    fn note_repeat(_: &mut Self::Reply) {}

    /// Whether it has written something, by what was answered.
    fn wrote(&self, reply: &Self::Reply) -> bool;
    /// The script that does it.
    fn script(&self) -> &'static Script;
    /// What asks for all `requests`, which have the same script: `EVALSHA` and its hash, or `EVAL` and its text.
    fn command(name: &str, script: &str, requests: &[&Self], expiry: Expiry) -> Cmd;
    /// Reads this request's answer out of those of a script; `None` if they are not what the script says.
    fn read(
        &self,
        answers: &mut std::slice::Iter<'_, Value>,
    ) -> Option<Result<Self::Reply, BackendError>>;
}

impl ScriptRequest for OpRequest {
    type Reply = Reply;
    /// Charging twice is worse than once for nothing.
    const IS_REPEATABLE: bool = false;

    fn wrote(&self, reply: &Reply) -> bool {
        self.wrote(reply)
    }

    fn script(&self) -> &'static Script {
        self.script()
    }

    fn command(name: &str, script: &str, requests: &[&Self], expiry: Expiry) -> Cmd {
        Self::command(name, script, requests, expiry)
    }

    fn read(
        &self,
        answers: &mut std::slice::Iter<'_, Value>,
    ) -> Option<Result<Reply, BackendError>> {
        self.read(answers)
    }
}

/// An operation on the key of this name.
#[derive(Debug)]
pub(super) struct OpRequest {
    pub(super) op: Op,
    pub(super) policy: Policy,
    pub(super) name: KeyName,
}

/// How long keys are kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expiry {
    /// The least expiry of a key, ms.
    pub(super) floor: u64,
    /// For how long a bucket that starts below its capacity is kept after it has filled, ms.
    pub(super) idle: u64,
}

/// The longest wait that a script understands, µs.
const LONGEST: u64 = 1 << 53;

impl OpRequest {
    pub(super) fn quotas(&self) -> &PackedQuotas {
        PackedQuotas::for_policy(&self.policy)
    }

    /// The script that does it. Requests of one script can go together.
    pub(super) fn script(&self) -> &'static Script {
        let quotas = self.quotas();
        let task = match self.op {
            _ if self.is_plain_check() => ScriptKind::Check,
            Op::Check(_) | Op::Reserve { .. } => ScriptKind::Several,
            Op::Cancel(_) => ScriptKind::Cancel,
            Op::Penalize(_) => ScriptKind::Penalize,
            Op::Refund(_) => ScriptKind::Refund,
            Op::Reset => ScriptKind::Reset,
        };
        Script::get(task, quotas.algorithms)
    }

    /// Whether it is a check of one quota; with a window there are no reservations, and to reserve one is to check.
    fn is_plain_check(&self) -> bool {
        let quotas = self.quotas();
        let checks = match self.op {
            Op::Check(_) => true,
            Op::Reserve { .. } => !quotas.of_buckets,
            _ => false,
        };
        checks && quotas.each.len() == 1
    }

    /// What asks for all `requests`, which have the same script: `EVALSHA` and its hash, or `EVAL` and its text.
    pub(super) fn command(name: &str, script: &str, requests: &[&Self], expiry: Expiry) -> Cmd {
        let keys: usize = requests.iter().map(|request| request.key_count()).sum();
        let mut command = Cmd::with_capacity(6 + 4 * keys, 128 + script.len() + 128 * keys);
        let mut buffer = Vec::with_capacity(96);
        command.arg(name).arg(script).arg(keys);
        for request in requests {
            request.write_keys(&mut command, &mut buffer);
        }
        // The first is the time, for tests: the server's own counts.
        command.arg("").arg(expiry.floor).arg(expiry.idle);
        Self::write_all_args(requests, &mut command);
        command
    }

    fn key_count(&self) -> usize {
        self.quotas().each.len()
    }

    fn write_keys(&self, command: &mut Cmd, buffer: &mut Vec<u8>) {
        for quota in &self.quotas().each {
            buffer.clear();
            buffer.extend_from_slice(&self.name);
            buffer.extend_from_slice(quota.suffix.as_bytes());
            command.arg(&buffer[..]);
        }
    }

    /// What comes behind the keys of all `requests`, which have the same script.
    fn write_all_args(requests: &[&Self], command: &mut Cmd) {
        if requests.first().is_some_and(|first| first.is_plain_check()) {
            for run in requests.chunk_by(|one, next| one.is_same_check(next)) {
                let numbers = &run[0].quotas().each[0].numbers;
                command.arg(&numbers[..]).arg(run[0].cost(0)).arg(run.len());
            }
        } else {
            for request in requests {
                request.write_args(command);
            }
        }
    }

    fn is_same_check(&self, other: &Self) -> bool {
        self.cost(0) == other.cost(0)
            && (self.policy.is(&other.policy)
                || self.quotas().each[0].numbers == other.quotas().each[0].numbers)
    }

    fn write_args(&self, command: &mut Cmd) {
        let quotas = self.quotas();
        command.arg(quotas.each.len());
        match self.op {
            Op::Reserve { max_wait, .. } if quotas.of_buckets => {
                command.arg(micros_up(max_wait).min(LONGEST))
            }
            _ => command.arg(-1),
        };
        for (index, quota) in quotas.each.iter().enumerate() {
            command.arg(&quota.numbers[..]);
            match &self.op {
                Op::Refund(receipt) => {
                    let charge = self.charge(receipt, index);
                    command.arg(charge.tokens).arg(charge.position().at);
                }
                Op::Cancel(reservation) => {
                    let left = reservation
                        .left(index)
                        .and_then(|left| stored::encode(left, 0));
                    command
                        .arg(reservation.cost().get(index))
                        .arg(left.unwrap_or_default());
                }
                _ => {
                    command.arg(self.cost(index)).arg("");
                }
            }
        }
    }

    /// What a receipt says of the quota at `index`; nothing if it is of another quota.
    fn charge(&self, receipt: &Receipt, index: usize) -> ChargePart {
        let quota = self.policy.quotas()[index].mark();
        let found = receipt.charges.iter().find(|charge| charge.quota == quota);
        found
            .copied()
            .unwrap_or(ChargePart::new(quota, 0, ChargePosition::default()))
    }

    /// Whether it charges the quota at `index` without asking.
    pub(super) fn is_penalty(&self, index: usize) -> bool {
        matches!(&self.op, Op::Penalize(cost) if cost.get(index) > 0)
    }

    /// Whether it has written something, by what was answered.
    pub(super) fn wrote(&self, reply: &Reply) -> bool {
        reply.decision.is_allowed() && (0..self.key_count()).any(|index| self.cost(index) > 0)
    }

    fn cost(&self, index: usize) -> u64 {
        match &self.op {
            Op::Check(cost) | Op::Penalize(cost) | Op::Reserve { cost, .. } => cost.get(index),
            Op::Cancel(_) | Op::Refund(_) | Op::Reset => 0,
        }
    }

    /// Reads this request's answer out of those of a script; `None` if they are not what the script says.
    pub(super) fn read(
        &self,
        answers: &mut std::slice::Iter<'_, Value>,
    ) -> Option<Result<Reply, BackendError>> {
        if self.is_plain_check() {
            // A charge to a bucket lies nowhere.
            let width = if self.quotas().of_buckets { 3 } else { 4 };
            let (own, rest) = answers.as_slice().split_at_checked(width)?;
            *answers = rest.iter();
            if let Some(fault) = script_error(own) {
                return Some(Err(fault));
            }
            let (snapshot, position) = self.snapshot(0, own)?;
            return Some(Ok(Reply::to_check_of_one(
                snapshot,
                self.charged(0, position),
            )));
        }
        let Value::Array(own) = answers.next()? else {
            return None;
        };
        if let Some(fault) = script_error(own) {
            return Some(Err(fault));
        }
        let (first, rest) = own.split_first()?;
        let own_number = unsigned(first)?;
        let mut snapshots = SmallVec::new();
        let mut charges = SmallVec::new();
        let (numbers, left) = rest.split_at_checked(4 * self.key_count())?;
        let mut since = SmallVec::<[u64; 2]>::new();
        for (index, numbers) in numbers.chunks_exact(4).enumerate() {
            let (mut snapshot, position) = self.snapshot(index, numbers)?;
            if matches!(self.op, Op::Cancel(_)) {
                since.push(snapshot.retry_after);
                snapshot.retry_after = 0;
            }
            snapshots.push(snapshot);
            charges.push(self.charged(index, position));
        }
        let mut reply = Reply::to_check(Snapshot::new(snapshots), || charges);
        match &self.op {
            Op::Check(_) => {}
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
            Op::Penalize(_) | Op::Refund(_) | Op::Reset => reply.receipt = None,
        }
        Some(Ok(reply))
    }

    fn charged(&self, index: usize, at: i64) -> ChargePart {
        let quota = self.policy.quotas()[index].mark();
        ChargePart::new(quota, self.cost(index), ChargePosition { at, number: 0 })
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
            reset_after: unsigned(reset)?,
        };
        let position = position.first().map_or(Some(0), signed)?;
        Some((snapshot, position))
    }
}

/// What was stored, if it can be read.
fn state(value: &Value) -> Option<Option<State>> {
    match value {
        Value::BulkString(bytes) if bytes.is_empty() => Some(None),
        Value::BulkString(bytes) => stored::decode(bytes).map(|(state, _)| Some(state)),
        _ => None,
    }
}

/// -2 and the reason: an operation that failed by itself.
pub(super) fn script_error(answer: &[Value]) -> Option<BackendError> {
    match answer {
        [Value::Int(-2), Value::BulkString(why), ..] => {
            Some(from_text(&String::from_utf8_lossy(why)))
        }
        _ => None,
    }
}

pub(super) fn signed(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        _ => None,
    }
}

pub(super) fn unsigned(value: &Value) -> Option<u64> {
    u64::try_from(signed(value)?).ok()
}
