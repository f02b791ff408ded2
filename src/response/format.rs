//! The header fields that show limits to clients.

/// A format of rate-limit fields. The name of a format contains the version of its draft, so its fields never change.
///
/// | format | fields |
/// |---|---|
/// | `Draft11` | `RateLimit: "api";r=9`, `RateLimit-Policy: "api";q=10;w=60`: every quota; concurrency too |
/// | `Draft07` | `RateLimit: limit=10, remaining=9, reset=6`, `RateLimit-Policy: 10;w=60` |
/// | `Draft06` | `RateLimit-Limit`, `RateLimit-Remaining`, `RateLimit-Reset`, `RateLimit-Policy: 10;w=60` |
/// | `XRateLimit` | `X-RateLimit-Limit`, `X-RateLimit-Remaining`, `X-RateLimit-Reset` |
///
/// All formats but `Draft11` show one limit: the quota that denies for longest or, if all allow, has the smallest share
/// of its limit left. [`Http::shown_quota`](super::Http::shown_quota) names another one. Of nested layers they show the
/// one with the smallest share left, and the innermost of equal ones. Their reset is the time until a rejected request
/// is allowed, or until an allowed request's key owes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HeaderFormat {
    /// Lists of named limits (draft-ietf-httpapi-ratelimit-headers-11).
    #[default]
    Draft11,
    /// One limit in one field (draft-ietf-httpapi-ratelimit-headers-07).
    Draft07,
    /// One limit in three fields, with a reset in seconds from now (draft-ietf-httpapi-ratelimit-headers-06 and
    /// earlier).
    Draft06,
    /// The fields in use before the drafts. No standard defines them.
    XRateLimit {
        /// The meaning of `X-RateLimit-Reset`.
        reset: Reset,
    },
    /// No fields.
    None,
}

/// The meaning of `X-RateLimit-Reset`. Clients of both kinds exist, and the field does not show its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reset {
    /// Seconds since the Unix epoch, as GitHub sends, by the backend's clock in this process.
    Epoch,
    /// Seconds from now, as Reddit sends.
    Delta,
}

/// The formats of a layer. A format that is not used has no cost.
///
/// The drafts use the same field names for different contents, and so do the two kinds of `X-RateLimit-Reset`. Of each
/// of these families, the last format in the list is used.
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

/// The draft whose fields are written.
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

    /// Whether a field contains a point in time.
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

    /// The formats of both.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            draft: self.draft.or(other.draft),
            x: self.x.or(other.x),
        }
    }

    /// The formats whose family has not been `written`.
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
