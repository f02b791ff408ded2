//! An operation on permits: how it is written into a command, and how its reply is read.

use std::time::Duration;

use super::super::BackendError;
use super::answer::{signed, unsigned};
use super::error::script_error;
use super::key_name::{KeyName, Naming};
use super::request::{Expiry, ScriptRequest};
use super::script::Script;
use super::transport::{Command, Value};
use crate::clock::micros_up;
use crate::decision::{NEVER, PermitOp, PermitReply, QuotaSnapshot};
use crate::key::Key;
use crate::policy::SemaphorePolicy;

/// An operation on the permits of this name.
#[derive(Debug)]
pub(super) struct PermitRequest {
    op: PermitOp,
    policy: SemaphorePolicy,
    pub(super) name: KeyName,
}

/// The suffixes of the keys: holders, weights, and the queue.
const SUFFIXES: [&[u8]; 3] = [b"p", b"pw", b"pq"];

impl ScriptRequest for PermitRequest {
    type Reply = PermitReply;
    /// An id has at most one permit, however often it is acquired, renewed or released.
    const IS_REPEATABLE: bool = true;

    fn note_repeat(reply: &mut PermitReply) {
        reply.is_repeated = true;
    }

    fn wrote(&self, reply: &PermitReply) -> bool {
        let asks = matches!(self.op, PermitOp::Acquire { .. } | PermitOp::Wait { .. });
        asks && reply.decision.is_allowed()
    }

    fn is_renewal(&self) -> bool {
        matches!(self.op, PermitOp::Renew(_))
    }

    fn script(&self) -> &'static Script {
        Script::semaphore()
    }

    fn command(name: &str, script: &str, requests: &[&Self], expiry: Expiry) -> Command {
        let count = requests.len();
        let bytes = 64 + script.len() + 320 * count;
        let mut command = Command::with_capacity(name, 5 + 10 * count, bytes);
        command.arg(script).number(SUFFIXES.len() * count);
        for request in requests {
            for suffix in SUFFIXES {
                command.joined(&request.name, suffix);
            }
        }
        // The first argument is the time, which only tests set. The server's own time counts.
        command.arg("").number(expiry.floor).number(expiry.idle);
        for request in requests {
            request.write(&mut command);
        }
        command
    }

    fn read(
        &self,
        answers: &mut std::slice::Iter<'_, Value>,
    ) -> Option<Result<PermitReply, BackendError>> {
        let Value::Array(own) = answers.next()? else {
            return None;
        };
        if let Some(fault) = script_error(own) {
            return Some(Err(fault));
        }
        let ([retry, remaining, reset, front], lasting) = own.split_first_chunk()?;
        let lasting: Option<_> = lasting.iter().map(|own| Some(signed(own)? == 1)).collect();
        let numbers = QuotaSnapshot {
            limit: self.policy.capacity().into(),
            remaining: unsigned(remaining)?,
            retry_after: match signed(retry)? {
                -1 => NEVER,
                wait => u64::try_from(wait).ok()?,
            },
            reset_after: unsigned(reset)?,
        };
        Some(Ok(PermitReply {
            lasting: lasting?,
            in_front: u32::try_from(unsigned(front)?).unwrap_or(u32::MAX),
            ..PermitReply::from_snapshot(numbers)
        }))
    }
}

impl PermitRequest {
    pub(super) fn new(op: PermitOp, policy: &SemaphorePolicy, naming: &Naming, key: &Key) -> Self {
        Self {
            op,
            policy: policy.clone(),
            name: naming.name(policy.name(), key),
        }
    }

    fn write(&self, command: &mut Command) {
        let (name, weight, waited) = match &self.op {
            PermitOp::Acquire { weight, .. } => ("acquire", *weight, Duration::ZERO),
            PermitOp::Wait { weight, waited, .. } => ("wait", *weight, *waited),
            PermitOp::Renew(_) => ("renew", 0, Duration::ZERO),
            PermitOp::Release(_) => ("release", 0, Duration::ZERO),
            PermitOp::Revoke(_) => ("revoke", 0, Duration::ZERO),
            PermitOp::Peek => ("peek", 0, Duration::ZERO),
        };
        // A longer wait would have begun before the epoch.
        let waited = micros_up(waited).min(LONGEST_WAIT);
        command.arg(name).number(self.policy.capacity());
        command.number(self.policy.lease_micros());
        command.number(weight).number(waited);
        match &self.op {
            PermitOp::Acquire { id, .. }
            | PermitOp::Wait { id, .. }
            | PermitOp::Release(id)
            | PermitOp::Revoke(id) => {
                command.number(1).arg(id.as_bytes());
            }
            PermitOp::Renew(ids) => {
                command.number(ids.len());
                for id in ids {
                    command.arg(id.as_bytes());
                }
            }
            PermitOp::Peek => {
                command.number(0);
            }
        }
    }
}

/// A year in µs.
const LONGEST_WAIT: u64 = 31_536_000_000_000;
