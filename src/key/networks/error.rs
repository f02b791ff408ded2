use std::fmt;
use std::net::IpAddr;

use crate::message::Quoted;

/// The error returned for an invalid list of networks, with the line and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseNetworksError {
    pub(super) line: usize,
    pub(super) value: Box<str>,
    pub(super) kind: ParseNetworksErrorKind,
}

/// The fault of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseNetworksErrorKind {
    /// The text is not an address, or the text after `/` is not a number.
    Syntax,
    /// The prefix is longer than the address.
    TooLong {
        /// The longest prefix: 32 or 128.
        most: u8,
    },
    /// The address has bits beyond the prefix: one of the two is a mistake.
    HostBits {
        /// The first address of the network that contains the address.
        network: IpAddr,
        /// The length of the prefix.
        prefix: u8,
    },
    /// The address has a zone, as `fe80::1%eth0`. A list cannot be limited to one interface.
    Zone,
}

impl ParseNetworksError {
    /// Returns the number of the line, from 1 on.
    #[must_use]
    pub const fn line(&self) -> usize {
        self.line
    }

    /// Returns the text of the line, without its comment.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Returns the fault.
    #[must_use]
    pub const fn kind(&self) -> ParseNetworksErrorKind {
        self.kind
    }
}

impl fmt::Display for ParseNetworksError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "line {}: invalid network {}: ",
            self.line,
            Quoted(&self.value)
        )?;
        // The address is shown only where it has been parsed as one.
        let address = self.value.split(['/', '%']).next().unwrap_or_default();
        match self.kind {
            ParseNetworksErrorKind::Syntax => {
                f.write_str(r#"use "10.0.0.0/8", "2001:db8::/32" or an address"#)
            }
            ParseNetworksErrorKind::TooLong { most } => {
                write!(
                    f,
                    r#"the prefix is too long; use at most {most}, such as "{address}/{most}""#
                )
            }
            ParseNetworksErrorKind::HostBits { network, prefix } => {
                let most = if network.is_ipv4() { 32 } else { 128 };
                write!(
                    f,
                    r#"the address has bits beyond the prefix; use "{network}/{prefix}" or "{address}/{most}""#
                )
            }
            ParseNetworksErrorKind::Zone => {
                write!(f, r#"a network has no zone; use "{address}""#)
            }
        }
    }
}

impl std::error::Error for ParseNetworksError {}
