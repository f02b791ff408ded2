//! The parts of an answer of a script.

use super::transport::Value;
use crate::algorithm::{State, stored};

/// Returns the stored state, if it can be read.
pub(super) fn state(value: &Value) -> Option<Option<State>> {
    match value {
        Value::Bytes(bytes) if bytes.is_empty() => Some(None),
        Value::Bytes(bytes) => stored::decode(bytes).map(|(state, _)| Some(state)),
        _ => None,
    }
}

pub(super) fn signed(value: &Value) -> Option<i64> {
    match value {
        Value::Integer(number) => Some(*number),
        _ => None,
    }
}

pub(super) fn unsigned(value: &Value) -> Option<u64> {
    u64::try_from(signed(value)?).ok()
}
