use std::fmt;

/// The error returned for a prefix of 0 bits, or of more bits than an address has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixError {
    pub(super) bits: u8,
    pub(super) most: u8,
}

impl fmt::Display for PrefixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (version, default) = if self.most == 32 { (4, 32) } else { (6, 64) };
        let Self { bits, most } = self;
        write!(
            f,
            "invalid prefix of {bits} bits for IPv{version}: use 1 to {most}, such as {default}"
        )
    }
}

impl std::error::Error for PrefixError {}
