use super::error::{ServerError, TransportError};

/// A reply of Redis.
///
/// Replies of other kinds (status, map, set, boolean) become the nearest of these. The scripts of this crate return
/// integers, bytes and arrays only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Value {
    /// Nothing, such as the value of a missing key.
    #[default]
    Nil,
    /// An integer.
    Integer(i64),
    /// A string of any bytes, also a status such as `OK`.
    Bytes(Vec<u8>),
    /// Several values.
    Array(Vec<Self>),
    /// An error.
    Error(ServerError),
}

impl Value {
    /// Returns an error of the server as an error.
    pub(in crate::backend::redis) fn into_result(self) -> Result<Self, TransportError> {
        match self {
            Self::Error(error) => Err(error.into()),
            value => Ok(value),
        }
    }
}
