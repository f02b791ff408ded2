//! Commands, replies and errors of redis-rs.

use redis::{Cmd, ErrorKind, RedisError};

use super::super::transport::{Command, ServerError, TransportError, TransportErrorKind, Value};

pub(super) fn command(command: &Command) -> Cmd {
    let args = command.args();
    let mut converted = Cmd::with_capacity(args.len(), command.byte_len());
    for arg in args {
        converted.arg(arg);
    }
    converted
}

/// Converts a reply. A vector of values keeps its allocation: `Value` is not larger than the value of redis-rs.
pub(super) fn value(value: redis::Value) -> Value {
    match value {
        redis::Value::Nil => Value::Nil,
        redis::Value::Int(number) => Value::Integer(number),
        redis::Value::BulkString(bytes) => Value::Bytes(bytes),
        redis::Value::Array(values) | redis::Value::Set(values) => array(values),
        redis::Value::Push { data, .. } => array(data),
        redis::Value::SimpleString(text) => Value::Bytes(text.into_bytes()),
        redis::Value::Okay => Value::Bytes(b"OK".to_vec()),
        redis::Value::ServerError(error) => Value::Error(server_error(&error)),
        redis::Value::Boolean(is_true) => Value::Integer(is_true.into()),
        redis::Value::Double(number) => Value::Bytes(number.to_string().into_bytes()),
        redis::Value::VerbatimString { text, .. } => Value::Bytes(text.into_bytes()),
        redis::Value::BigNumber(digits) => Value::Bytes(digits),
        redis::Value::Map(pairs) => {
            let flat = pairs.into_iter().flat_map(|(key, entry)| [key, entry]);
            Value::Array(flat.map(self::value).collect())
        }
        redis::Value::Attribute { data, .. } => self::value(*data),
        _ => Value::Nil,
    }
}

fn array(values: Vec<redis::Value>) -> Value {
    Value::Array(values.into_iter().map(value).collect())
}

pub(super) fn error(error: RedisError) -> TransportError {
    let kind = match error.kind() {
        ErrorKind::Server(_) | ErrorKind::Extension => {
            return TransportError::from_server(server_error_of(&error));
        }
        _ if error.is_connection_refusal() => TransportErrorKind::Refused,
        _ if error.is_timeout() => TransportErrorKind::Timeout,
        ErrorKind::Io | ErrorKind::ClusterConnectionNotFound => TransportErrorKind::Io,
        ErrorKind::Parse => TransportErrorKind::Protocol,
        ErrorKind::AuthenticationFailed => TransportErrorKind::Authentication,
        _ => TransportErrorKind::Client,
    };
    TransportError::new(kind, error)
}

/// Of commands that went together, the first that failed.
fn server_error_of(error: &RedisError) -> ServerError {
    let all = error.clone().into_server_errors();
    match all.as_deref().and_then(|errors| errors.first()) {
        Some((_, first)) => server_error(first),
        None => ServerError::new(error.code().unwrap_or("ERR"), error.to_string()),
    }
}

fn server_error(error: &redis::ServerError) -> ServerError {
    ServerError::new(error.code(), error.to_string())
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn an_array_keeps_its_allocation() {
        let values = (0..256).map(redis::Value::Int).collect::<Vec<_>>();
        let before = values.as_ptr().addr();
        let Value::Array(values) = value(redis::Value::Array(values)) else {
            panic!("an array");
        };
        assert_eq!(values.as_ptr().addr(), before);
        let bytes = b"text".to_vec();
        let before = bytes.as_ptr().addr();
        let Value::Bytes(bytes) = value(redis::Value::BulkString(bytes)) else {
            panic!("bytes");
        };
        assert_eq!(bytes.as_ptr().addr(), before);
    }

    #[test]
    fn replies_of_every_kind_become_the_nearest_value() {
        let text = |text: &str| redis::Value::SimpleString(text.to_owned());
        let bytes = |text: &str| Value::Bytes(text.as_bytes().to_vec());
        let map = redis::Value::Map(vec![(text("a"), redis::Value::Int(1))]);
        for (from, to) in [
            (redis::Value::Nil, Value::Nil),
            (redis::Value::Okay, bytes("OK")),
            (text("QUEUED"), bytes("QUEUED")),
            (redis::Value::Boolean(true), Value::Integer(1)),
            (redis::Value::Double(0.5), bytes("0.5")),
            (map, Value::Array(vec![bytes("a"), Value::Integer(1)])),
        ] {
            assert_eq!(value(from), to);
        }
    }

    #[test]
    fn errors_keep_kind_and_text() {
        let of_io = |kind: io::ErrorKind| RedisError::from(io::Error::from(kind));
        for (kind, expected) in [
            (
                io::ErrorKind::ConnectionRefused,
                TransportErrorKind::Refused,
            ),
            (io::ErrorKind::ConnectionReset, TransportErrorKind::Io),
            (io::ErrorKind::TimedOut, TransportErrorKind::Timeout),
        ] {
            let converted = error(of_io(kind));
            assert_eq!(converted.kind(), expected);
            assert_eq!(converted.to_string(), of_io(kind).to_string());
        }
        let auth = RedisError::from((ErrorKind::AuthenticationFailed, "wrong"));
        assert_eq!(error(auth).kind(), TransportErrorKind::Authentication);
        let code = redis::ServerErrorKind::NoScript;
        let missing = error(RedisError::from((ErrorKind::Server(code), "no script")));
        assert_eq!(missing.kind(), TransportErrorKind::Server);
        assert_eq!(missing.code(), Some("NOSCRIPT"));
    }
}
