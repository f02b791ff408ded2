//! Classes of errors: whether the operation was done, whether its connection can be used again, and which error the
//! caller gets.

use std::time::Duration;

use super::super::{BackendError, BackendErrorKind};
use super::transport::{TransportError, TransportErrorKind, Value};

/// The cause of an error when no connection was opened in time.
#[derive(Debug)]
pub(super) struct ConnectTimeout(pub(super) Duration);

impl std::fmt::Display for ConnectTimeout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "connecting took longer than {:?}", self.0)
    }
}

impl std::error::Error for ConnectTimeout {}

/// The error when no connection was opened because of `cause`.
pub(super) fn unreachable(cause: TransportError) -> BackendError {
    BackendError::because(BackendErrorKind::Unreachable, cause)
}

pub(super) fn is_connection_refused(error: &BackendError) -> bool {
    std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<TransportError>())
        .is_some_and(|source| source.kind() == TransportErrorKind::Refused)
}

pub(super) fn is_cross_slot(error: &TransportError) -> bool {
    error.code() == Some("CROSSSLOT")
}

pub(super) fn is_unknown_script(error: &TransportError) -> bool {
    error.code() == Some("NOSCRIPT")
}

pub(super) fn is_read_only(error: &BackendError) -> bool {
    matches!(error.kind(), BackendErrorKind::Server(code) if code == "READONLY")
}

/// Whether a script did nothing, because the edges of a calendar were not around the time of its server.
pub(super) fn is_other_window(error: &BackendError) -> bool {
    matches!(error.kind(), BackendErrorKind::Server(code) if code == "CALENDAR")
}

/// Returns the time of the server in such an error, in µs.
pub(super) fn calendar_time(error: &BackendError) -> Option<i64> {
    if !is_other_window(error) {
        return None;
    }
    let text = std::error::Error::source(error)?.to_string();
    text.strip_prefix("CALENDAR ")?.parse().ok()
}

/// Whether the server said that it did not run the command.
pub(super) fn was_not_done(error: &TransportError) -> bool {
    matches!(
        error.code(),
        Some("LOADING" | "READONLY" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN")
    )
}

/// Whether the keys of the request were on two nodes of a cluster, or missing, while their slot moves.
#[cfg(feature = "cluster")]
pub(super) fn is_split(error: &BackendError) -> bool {
    matches!(error.kind(), BackendErrorKind::Server(code) if code == "TRYAGAIN")
}

/// Whether nothing was done: the server said so, or there was no connection. Another attempt may succeed.
pub(super) fn is_not_done(error: &BackendError) -> bool {
    let cause = || std::error::Error::source(error)?.downcast_ref::<TransportError>();
    match error.kind() {
        BackendErrorKind::Server(code) => NOT_DONE.contains(&&**code),
        BackendErrorKind::Unreachable => {
            cause().is_none_or(|cause| cause.kind() != TransportErrorKind::Authentication)
        }
        _ => false,
    }
}

/// Codes of errors that a node of a cluster replies instead of running a command, or a script instead of a decision.
const NOT_DONE: [&str; 8] = [
    "ASK",
    "CALENDAR",
    "CLUSTERDOWN",
    "LOADING",
    "MASTERDOWN",
    "MOVED",
    "READONLY",
    "TRYAGAIN",
];

/// The error for a command that was sent, or may have been.
pub(super) fn from_transport(error: TransportError) -> BackendError {
    match (error.kind(), error.code()) {
        // The error of an unknown command repeats its arguments, which are bytes of ours. No other error does.
        (TransportErrorKind::Protocol, _) if error.to_string().contains("invalid utf-8") => {
            let message = ServerMessage("unknown command".to_owned());
            BackendError::because(BackendErrorKind::Server("ERR".to_owned()), message)
        }
        // A reply that ends in the middle cannot be read.
        (
            TransportErrorKind::Io
            | TransportErrorKind::Refused
            | TransportErrorKind::Timeout
            | TransportErrorKind::Protocol,
            _,
        ) => BackendError::because(BackendErrorKind::Lost, error),
        (_, Some("WRONGTYPE")) => BackendError::because(BackendErrorKind::Corrupt, error),
        (_, Some("WORDSIZE")) => word_size_error(),
        // Redis 6.2 begins the error of a denied command in a script with `@user_script`.
        (_, Some(code)) if code != "ERR" && !code.starts_with('@') => {
            let code = code.to_owned();
            BackendError::because(BackendErrorKind::Server(code), error)
        }
        // Errors of scripts have their code in the text.
        _ => from_text(&error.to_string()),
    }
}

/// Returns the error of a single operation: -2 and the reason.
pub(super) fn script_error(answer: &[Value]) -> Option<BackendError> {
    match answer {
        [Value::Integer(-2), Value::Bytes(why), ..] => Some(from_reason(why)),
        _ => None,
    }
}

/// Returns the error of a reason that a script answers.
pub(super) fn from_reason(why: &[u8]) -> BackendError {
    from_text(&String::from_utf8_lossy(why))
}

/// The error for a text of Redis.
pub(super) fn from_text(text: &str) -> BackendError {
    // The error of an unknown command repeats the command with its keys.
    let (text, _) = text.split_once(", with args").unwrap_or((text, ""));
    // Some versions put the place of the error in front. The code is the first word in capitals outside of quotes.
    let is_code =
        |word: &&str| word.len() > 2 && word.bytes().all(|byte| byte.is_ascii_uppercase());
    let code = text
        .split(['\'', '`'])
        .next()
        .unwrap_or_default()
        .split(|letter: char| !letter.is_ascii_alphanumeric())
        .find(is_code)
        .unwrap_or("ERR");
    let kind = match code {
        "CORRUPT" | "WRONGTYPE" => BackendErrorKind::Corrupt,
        "WORDSIZE" => return word_size_error(),
        // Redis reads no command of more than ten arguments before a client has authenticated.
        _ if text.contains("unauthenticated multibulk length") => {
            BackendErrorKind::Server("NOAUTH".to_owned())
        }
        // Within a script the code of a denied command is `ERR` (6.2, 7.0), or the first word of "ACL failure in
        // script".
        "ERR" | "ACL" if DENIED.iter().any(|words| text.contains(words)) => {
            BackendErrorKind::Server("NOPERM".to_owned())
        }
        code => BackendErrorKind::Server(code.to_owned()),
    };
    BackendError::because(kind, ServerMessage(text.to_owned()))
}

/// Texts of Redis that deny a command within a script.
const DENIED: [&str; 4] = [
    "ACL failure in script",
    "can't run this command",
    "can't access at least one of the keys",
    "has no permissions",
];

/// The error for a server that cannot keep 64-bit integers. The scripts stop there.
fn word_size_error() -> BackendError {
    BackendError::config(
        "this Redis server is a 32-bit build, whose Lua loses the upper half of 64-bit integers; use a 64-bit build",
    )
}

/// The error for a reply of an unknown form.
pub(super) fn unexpected_reply() -> BackendError {
    let message = ServerMessage("unexpected reply of a script".to_owned());
    BackendError::because(BackendErrorKind::Server("ERR".to_owned()), message)
}

/// A text of Redis.
#[derive(Debug)]
struct ServerMessage(String);

impl std::fmt::Display for ServerMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ServerMessage {}

/// Whether a connection cannot be used after this error: it is closed, or its server takes no writes.
pub(super) fn is_broken(error: &TransportError) -> bool {
    match error.kind() {
        TransportErrorKind::Server => is_wrong_server(error),
        TransportErrorKind::Client => false,
        _ => true,
    }
}

/// Whether the server is being demoted, loads its data, or has lost its primary. Another connection may lead to a
/// server that takes writes.
fn is_wrong_server(error: &TransportError) -> bool {
    matches!(error.code(), Some("READONLY" | "LOADING" | "MASTERDOWN"))
}
