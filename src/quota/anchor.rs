use std::time::Duration;

use super::rule::Origin;
use crate::clock::micros_up;

/// Where the intervals of a bucket, or the windows of a fixed window, begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Anchor {
    /// With the first charge: of a full bucket, or after the last window is over.
    FirstUse,
    /// At multiples of the period since the Unix epoch, plus `offset` (rounded up to whole µs).
    Epoch {
        /// Added to each multiple of the period.
        offset: Duration,
    },
}

impl Anchor {
    /// Multiples of the period since the Unix epoch, the default of fixed windows.
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
