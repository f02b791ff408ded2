use std::fmt;

/// The most bytes that are kept. The longest name of the IANA database has 30.
const LONGEST: usize = 40;

/// The first 40 bytes of the name of a time zone that is unknown. A letter that is not printable ASCII is shown as `?`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ZoneText {
    bytes: [u8; LONGEST],
    len: usize,
}

impl ZoneText {
    #[cfg(feature = "calendar")]
    pub(super) fn new(name: &str) -> Self {
        let mut text = Self {
            bytes: [b'?'; LONGEST],
            len: 0,
        };
        for (byte, letter) in text.bytes.iter_mut().zip(name.chars()) {
            if matches!(letter, ' '..='~') {
                *byte = u8::try_from(letter).unwrap_or(b'?');
            }
            text.len += 1;
        }
        text
    }

    /// Returns the text.
    #[must_use]
    pub const fn as_str(&self) -> &str {
        match std::str::from_utf8(self.bytes.split_at(self.len).0) {
            Ok(text) => text,
            Err(_) => "",
        }
    }
}

impl fmt::Debug for ZoneText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for ZoneText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
