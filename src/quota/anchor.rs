use std::time::Duration;

use super::rule::Origin;
use crate::clock::micros_up;

/// The start of the intervals of a bucket, or of the windows of a fixed window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Anchor {
    /// At the first charge of a full bucket, or at the first charge after the last window.
    FirstUse,
    /// At multiples of the period since the Unix epoch, plus `offset`.
    Epoch {
        /// The time added to each multiple of the period, rounded up to whole µs.
        offset: Duration,
    },
}

impl Anchor {
    /// At multiples of the period since the Unix epoch. This is the default of fixed windows.
    pub const EPOCH: Self = Self::Epoch {
        offset: Duration::ZERO,
    };
}

impl Anchor {
    pub(super) const fn origin(self) -> Origin {
        match self {
            Self::FirstUse => None,
            Self::Epoch { offset } => Some(micros_up(offset)),
        }
    }

    pub(super) const fn from_origin(origin: Origin) -> Self {
        match origin {
            None => Self::FirstUse,
            Some(offset) => Self::Epoch {
                offset: Duration::from_micros(offset),
            },
        }
    }
}
