//! In which header fields clients are told of limits.

/// How clients are told of limits, beside the `Retry-After` of a rejection. The version of a draft is part of its name
/// and never moves under a user's feet.
///
/// | format | fields |
/// |---|---|
/// | `Draft11` | `RateLimit: "api";r=9`, `RateLimit-Policy: "api";q=10;w=60`: every quota; concurrency too |
/// | `Draft07` | `RateLimit: limit=10, remaining=9, reset=6`, `RateLimit-Policy: 10;w=60` |
/// | `Draft06` | `RateLimit-Limit`, `RateLimit-Remaining`, `RateLimit-Reset`, `RateLimit-Policy: 10;w=60` |
/// | `XRateLimit` | `X-RateLimit-Limit`, `X-RateLimit-Remaining`, `X-RateLimit-Reset` |
///
/// All but `Draft11` have room for one limit: that of the [governing quota](crate::Snapshot), and of nested layers that
/// with the least remaining, the innermost if equal. Their reset is when the request may come again if it was rejected,
/// and else when nothing is owed any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HeaderFormat {
    /// Of draft-ietf-httpapi-ratelimit-headers-11: lists of named limits.
    #[default]
    Draft11,
    /// Of draft-ietf-httpapi-ratelimit-headers-07: one limit in one field.
    Draft07,
    /// Of draft-ietf-httpapi-ratelimit-headers-06, and those before it: three fields, and seconds from now.
    Draft06,
    /// What was used before the drafts, by no standard.
    XRateLimit {
        /// What `X-RateLimit-Reset` counts.
        reset: Reset,
    },
    /// Nothing.
    None,
}

/// What `X-RateLimit-Reset` counts: there are clients of either kind, and they cannot tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reset {
    /// Seconds since the Unix epoch, as GitHub has them. They are those of the backend's clock in this process.
    Epoch,
    /// Seconds from now, as Reddit has them.
    Delta,
}

/// One or several formats of a layer, at no cost for those that are not used.
///
/// The drafts give the same names to different fields, and so do the two kinds of `X-RateLimit-Reset`: of each of these
/// families the last one counts.
///
/// ```
/// use tower_sluice::response::{HeaderFormat, HeaderFormats, Reset};
///
/// let x = HeaderFormat::XRateLimit { reset: Reset::Delta };
/// let both = HeaderFormats::from([HeaderFormat::Draft11, x]);
/// assert_eq!(HeaderFormats::from([HeaderFormat::Draft06, x, HeaderFormat::Draft11]), both);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeaderFormats {
    pub(super) draft: Option<Draft>,
    pub(super) x: Option<Reset>,
}

/// Which draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Draft {
    D11,
    D07,
    D06,
}

impl HeaderFormats {
    pub(super) const NONE: Self = Self {
        draft: None,
        x: None,
    };

    #[inline]
    pub(super) const fn is_empty(self) -> bool {
        self.draft.is_none() && self.x.is_none()
    }

    /// Whether a point in time is told.
    #[inline]
    pub(super) const fn needs_time(self) -> bool {
        matches!(self.x, Some(Reset::Epoch))
    }

    pub(super) const fn and(self, format: HeaderFormat) -> Self {
        let Self { draft, x } = self;
        match format {
            HeaderFormat::Draft11 => Self {
                draft: Some(Draft::D11),
                x,
            },
            HeaderFormat::Draft07 => Self {
                draft: Some(Draft::D07),
                x,
            },
            HeaderFormat::Draft06 => Self {
                draft: Some(Draft::D06),
                x,
            },
            HeaderFormat::XRateLimit { reset } => Self {
                draft,
                x: Some(reset),
            },
            HeaderFormat::None => self,
        }
    }

    /// These and those of `other`.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            draft: self.draft.or(other.draft),
            x: self.x.or(other.x),
        }
    }

    /// Those of whose family none has been `written`.
    pub(super) fn without(self, written: Self) -> Self {
        Self {
            draft: self.draft.filter(|_| written.draft.is_none()),
            x: self.x.filter(|_| written.x.is_none()),
        }
    }
}

impl Default for HeaderFormats {
    fn default() -> Self {
        Self::from(HeaderFormat::default())
    }
}

impl From<HeaderFormat> for HeaderFormats {
    fn from(format: HeaderFormat) -> Self {
        Self::NONE.and(format)
    }
}

impl<const N: usize> From<[HeaderFormat; N]> for HeaderFormats {
    fn from(formats: [HeaderFormat; N]) -> Self {
        formats.into_iter().collect()
    }
}

impl FromIterator<HeaderFormat> for HeaderFormats {
    fn from_iter<I: IntoIterator<Item = HeaderFormat>>(formats: I) -> Self {
        formats.into_iter().fold(Self::NONE, Self::and)
    }
}
