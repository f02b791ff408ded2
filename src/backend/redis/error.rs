//! What an error says: whether the operation was done, whether the server or its connection can be used again, and what
//! is told.

use std::time::Duration;

use bb8_redis::redis::{ErrorKind, RedisError, ServerErrorKind};

use super::super::{BackendError, BackendErrorKind};

/// Why there is no connection.
#[derive(Debug)]
pub(super) struct ConnectTimeout(pub(super) Duration);

impl std::fmt::Display for ConnectTimeout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "connecting took longer than {:?}", self.0)
    }
}

impl std::error::Error for ConnectTimeout {}

pub(super) fn is_connection_refused(error: &BackendError) -> bool {
    std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<RedisError>())
        .is_some_and(RedisError::is_connection_refusal)
}

pub(super) fn is_cross_slot(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::CrossSlot)
}

pub(super) fn is_read_only(error: &BackendError) -> bool {
    matches!(error.kind(), BackendErrorKind::Server(code) if code == "READONLY")
}

/// Provably: the server has said so instead of doing it.
pub(super) fn was_not_done(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(
            ServerErrorKind::BusyLoading
                | ServerErrorKind::ReadOnly
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::TryAgain
        )
    )
}

/// What went wrong with a command that was, or may have been, sent.
pub(super) fn from_redis(error: RedisError) -> BackendError {
    // Of commands that went together, the first that failed.
    let own = error
        .clone()
        .into_server_errors()
        .and_then(|errors| errors.first().map(|(_, first)| first.code().to_owned()));
    match (error.kind(), own.as_deref().or(error.code())) {
        // The error of an unknown command repeats its arguments, which are bytes of ours. No other error does.
        (ErrorKind::Parse, _) if error.to_string().contains("invalid utf-8") => {
            let told = ServerMessage("unknown command".to_owned());
            BackendError::because(BackendErrorKind::Server("ERR".to_owned()), told)
        }
        // A reply that ends in the middle cannot be read.
        (ErrorKind::Io | ErrorKind::Parse, _) => {
            BackendError::because(BackendErrorKind::Lost, error)
        }
        (_, Some("WRONGTYPE")) => BackendError::because(BackendErrorKind::Corrupt, error),
        (_, Some("WORDSIZE")) => of_word_size(),
        (_, Some(code)) if code != "ERR" => {
            let code = code.to_owned();
            BackendError::because(BackendErrorKind::Server(code), error)
        }
        // Errors of scripts have their code in the text.
        _ => from_text(&error.to_string()),
    }
}

/// The error that Redis told in words.
pub(super) fn from_text(text: &str) -> BackendError {
    // A command that it does not know is repeated, keys and all.
    let (text, _) = text.split_once(", with args").unwrap_or((text, ""));
    // Some versions put where it happened in front. A code is the first word in capitals; what is quoted is none.
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
        "WORDSIZE" => return of_word_size(),
        // Within a script the code of a denied command is `ERR` (6.2, 7.0), or the first word of "ACL failure in
        // script".
        "ERR" | "ACL" if DENIED.iter().any(|words| text.contains(words)) => {
            BackendErrorKind::Server("NOPERM".to_owned())
        }
        code => BackendErrorKind::Server(code.to_owned()),
    };
    BackendError::because(kind, ServerMessage(text.to_owned()))
}

/// What Redis says when the user of a script lacks a right.
const DENIED: [&str; 4] = [
    "ACL failure in script",
    "can't run this command",
    "can't access at least one of the keys",
    "has no permissions",
];

/// The scripts refuse to decide on a server that cannot keep their numbers.
fn of_word_size() -> BackendError {
    BackendError::config(
        "this Redis server is a 32-bit build, whose Lua loses the upper half of 64-bit integers; use a 64-bit build",
    )
}

/// An answer that is none of the script's.
pub(super) fn unexpected_reply() -> BackendError {
    let why = RedisError::from((
        ErrorKind::UnexpectedReturnType,
        "not the answer of this script",
    ));
    BackendError::because(BackendErrorKind::Server("ERR".to_owned()), why)
}

/// What Redis said.
#[derive(Debug)]
struct ServerMessage(String);

impl std::fmt::Display for ServerMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ServerMessage {}

/// Whether a connection cannot be used after this error: it is gone, or leads to a server that takes no writes.
pub(super) fn is_broken(error: &RedisError) -> bool {
    error.is_io_error()
        || error.kind() == ErrorKind::Parse
        || error.is_unrecoverable_error()
        || is_wrong_server(error)
}

/// A server that is being demoted, loads its data, or has lost its primary: others may be right by now.
fn is_wrong_server(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(
            ServerErrorKind::ReadOnly | ServerErrorKind::BusyLoading | ServerErrorKind::MasterDown
        )
    )
}
