//! The stored keys of an operation without scripts: the commands that write them, and replies to plain commands.

use super::request::OpRequest;
use super::round_trip::ScriptClient;
use super::transport::{Command, ServerError, Value};
use crate::algorithm::{State, stored};
use crate::clock::Timestamp;
use crate::decision::{NEVER, Reply};

/// A key of the request, the state that was stored under it, and the time in µs until which it is kept.
pub(super) struct StoredKey {
    pub(super) key: Vec<u8>,
    pub(super) state: Option<State>,
    pub(super) keep_until: u64,
}

/// The commands that store `states` in place of what the entries hold.
pub(super) fn writes(
    client: &ScriptClient,
    request: &OpRequest,
    entries: &[StoredKey],
    states: &[Option<State>],
    reply: &Reply,
    now: Timestamp,
) -> Vec<Command> {
    let mut writes = Vec::new();
    let answers = reply.decision.snapshot().quotas();
    for (index, ((entry, state), (named, answer))) in entries
        .iter()
        .zip(states)
        .zip(request.policy.quotas().iter().zip(answers))
        .enumerate()
    {
        // A penalty that changes nothing keeps the key for as long as its own quota needs.
        if *state == entry.state && !request.is_penalty(index) {
            continue;
        }
        let Some(state) = state else {
            let mut delete = Command::new("DEL");
            delete.arg(&entry.key);
            writes.push(delete);
            continue;
        };
        let mut owed = answer.reset_after;
        if named.lingers() {
            owed = owed.saturating_add(client.expiry.idle.saturating_mul(1_000));
        }
        let (before, now) = (entry.state.as_ref(), now.as_micros());
        let keep = stored::keep_for(named.quota(), before, state, owed, entry.keep_until, now);
        let packed = stored::encode(state, now.saturating_add(keep)).unwrap_or_default();
        let mut set = Command::new("SET");
        set.arg(&entry.key).arg(packed);
        if keep != NEVER {
            let px = (keep.div_ceil(1_000).saturating_add(1_000)).max(client.expiry.floor);
            set.arg("PX").number(px);
        }
        writes.push(set);
    }
    writes
}

/// The first error of a reply, also of one inside an array.
pub(super) fn first_error(value: &Value) -> Option<&ServerError> {
    match value {
        Value::Error(error) => Some(error),
        Value::Array(values) => values.iter().find_map(first_error),
        _ => None,
    }
}

/// The reply to `TIME`: seconds and microseconds.
pub(super) fn time(reply: &Value) -> Option<Timestamp> {
    let Value::Array(parts) = reply else {
        return None;
    };
    let number = |part: &Value| match part {
        Value::Bytes(digits) => std::str::from_utf8(digits).ok()?.parse::<u64>().ok(),
        Value::Integer(number) => u64::try_from(*number).ok(),
        _ => None,
    };
    let [seconds, micros] = parts.as_slice() else {
        return None;
    };
    let seconds = number(seconds)?.saturating_mul(1_000_000);
    Some(Timestamp::from_micros(
        seconds.saturating_add(number(micros)?),
    ))
}
