use std::fmt;

use ipnet::IpNet;

use crate::message::Quoted;

/// Why a text is no list of networks: which line, and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseNetworksError {
    pub(super) line: usize,
    pub(super) value: Box<str>,
    pub(super) kind: ParseNetworksErrorKind,
}

/// What is wrong with a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseNetworksErrorKind {
    /// It is no address, or what follows the `/` is no number.
    Syntax,
    /// The prefix is longer than the address.
    TooLong {
        /// The most there can be: 32 or 128.
        most: u8,
    },
    /// Its address has bits beyond the prefix: one of the two is a slip.
    HostBits {
        /// The network that holds the address.
        network: IpNet,
    },
    /// The address has a zone, as `fe80::1%eth0`. The list would not hold for that interface alone.
    Zone,
}

impl ParseNetworksError {
    /// The number of the line, from 1 on.
    #[must_use]
    pub const fn line(&self) -> usize {
        self.line
    }

    /// What the line says, without its comment.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }

    /// What is wrong with it.
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
        // Where it is shown, it has been parsed as an address.
        let address = self.value.split(['/', '%']).next().unwrap_or_default();
        match self.kind {
            ParseNetworksErrorKind::Syntax => {
                f.write_str(r#"use "10.0.0.0/8", "2001:db8::/32" or an address"#)
            }
            ParseNetworksErrorKind::TooLong { most } => {
                write!(f, "the prefix is too long; use at most {most}")
            }
            ParseNetworksErrorKind::HostBits { network } => {
                let most = network.max_prefix_len();
                write!(
                    f,
                    r#"the address has bits beyond the prefix; use "{network}" or "{address}/{most}""#
                )
            }
            ParseNetworksErrorKind::Zone => {
                write!(f, r#"a network has no zone; use "{address}""#)
            }
        }
    }
}

impl std::error::Error for ParseNetworksError {}
