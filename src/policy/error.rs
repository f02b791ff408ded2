use std::fmt;

use crate::message::{Quoted, plain_name};
use crate::quota::MAX_QUOTAS;

/// The error of an invalid policy.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PolicyError {
    /// The policy's name is not 1 to 64 characters of `A-Z a-z 0-9 _ . -`. It is part of the keys in a shared store.
    Name(String),
    /// The quota's name is not 1 to 64 characters of printable ASCII. It is written into header fields.
    QuotaName(String),
    /// Two quotas of the policy have the same name.
    DuplicateName(String),
    /// The policy has no quota, or more than 8.
    Count(usize),
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(
                f,
                "invalid policy name {}: use 1 to 64 of A-Z a-z 0-9 _ . -, such as {:?}",
                Quoted(name),
                plain_name(name)
            ),
            Self::QuotaName(name) => write!(
                f,
                "invalid quota name {}: use 1 to 64 printable ASCII characters, such as {:?}",
                Quoted(name),
                plain_name(name)
            ),
            Self::DuplicateName(name) => write!(
                f,
                "duplicate quota name {}: give each quota of a policy its own name, such as \"daily\"",
                Quoted(name)
            ),
            Self::Count(count) => {
                write!(f, "invalid policy of {count} quotas: use 1 to {MAX_QUOTAS}")
            }
        }
    }
}

impl std::error::Error for PolicyError {}
