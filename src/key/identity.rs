use std::fmt;

use smallvec::SmallVec;

/// Bytes that a key keeps without allocating.
pub(super) const INLINE: usize = 40;

/// A key selects the bucket of a request: an address, a customer, an API key. Up to 40 bytes are kept without
/// allocating.
///
/// A secret key differs from a plain key of the same bytes. Keys are never printed, and the memory backend keeps only a
/// keyed fingerprint of them.
///
/// ```
/// use tower_sluice::Key;
///
/// let user = Key::from(42_u64);
/// assert_eq!(user.as_bytes(), b"42");
/// assert_ne!(Key::new("s3cret"), Key::secret("s3cret"));
/// assert_eq!(Key::join([&Key::from("acme"), &user]).as_bytes(), b"4:acme2:42");
/// ```
///
/// Guide: [choose a key](crate::_guide::keys).
#[derive(Default, PartialEq, Eq, Hash)]
pub struct Key {
    bytes: SmallVec<[u8; INLINE]>,
    secrecy: Secrecy,
}

/// Whether a key must be digested before it leaves the process.
///
/// It fills a word. A byte that is stored alone and read with the padding beside it, when the key is moved, would stall.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u64)]
enum Secrecy {
    #[default]
    Plain,
    Secret,
    /// The key holds the keys of several scopes.
    Scopes,
}

impl Key {
    /// Creates a key of these bytes, of any length.
    ///
    /// ```
    /// use tower_sluice::Key;
    ///
    /// assert_eq!(Key::new(b"ann"), Key::from("ann"));
    /// ```
    #[must_use]
    #[inline]
    pub fn new(bytes: impl AsRef<[u8]>) -> Self {
        Self {
            bytes: SmallVec::from_slice(bytes.as_ref()),
            secrecy: Secrecy::Plain,
        }
    }

    /// Creates a key that must not leave the process in plain text: an API key, a bearer token, a cookie.
    ///
    /// ```
    /// use tower_sluice::Key;
    ///
    /// let key = Key::secret("s3cret");
    /// assert!(!format!("{key:?}").contains("s3cret"));
    /// ```
    #[must_use]
    #[inline]
    pub fn secret(bytes: impl AsRef<[u8]>) -> Self {
        Self {
            secrecy: Secrecy::Secret,
            ..Self::new(bytes)
        }
    }

    /// Joins several parts to one key. The length of each part precedes it, so ("a:b", "c") and ("a", "b:c") stay two
    /// keys. The joined key is secret if a part is.
    ///
    /// ```
    /// use tower_sluice::Key;
    ///
    /// let key = Key::join([&Key::from("acme"), &Key::from("ann")]);
    /// assert_ne!(key, Key::from("acmeann"));
    /// ```
    #[must_use]
    pub fn join<'a>(parts: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut joined = Self::new("");
        for part in parts {
            joined.push_number(part.bytes.len() as u64);
            joined.bytes.push(b':');
            joined.bytes.extend_from_slice(&part.bytes);
            if part.is_secret() {
                joined.secrecy = Secrecy::Secret;
            }
        }
        joined
    }

    /// Returns the bytes of the key.
    #[must_use]
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns whether the key must be digested before it leaves the process.
    #[must_use]
    #[inline]
    pub const fn is_secret(&self) -> bool {
        matches!(self.secrecy, Secrecy::Secret)
    }

    /// Creates a secret from an iterator, without a buffer in between.
    pub(super) fn from_secret_bytes(bytes: impl Iterator<Item = u8>) -> Self {
        Self {
            bytes: bytes.collect(),
            secrecy: Secrecy::Secret,
        }
    }

    /// Creates a key of the first `len` bytes, without copying them.
    #[inline]
    pub(super) fn inline(bytes: [u8; INLINE], len: usize) -> Self {
        Self {
            bytes: SmallVec::from_buf_and_len(bytes, len),
            secrecy: Secrecy::Plain,
        }
    }

    /// Creates a key that will hold the keys of several scopes.
    pub(super) fn empty_scopes() -> Self {
        Self {
            bytes: SmallVec::new(),
            secrecy: Secrecy::Scopes,
        }
    }

    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether the key holds the keys of several scopes.
    #[inline]
    pub(super) const fn holds_scopes(&self) -> bool {
        matches!(self.secrecy, Secrecy::Scopes)
    }

    /// Appends decimal digits.
    fn push_number(&mut self, number: u64) {
        self.bytes
            .extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    }
}

/// A borrowed key. A check in memory needs no owned one.
///
/// ```
/// use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota};
///
/// let limiter = Limiter::new(Policy::new("mails", Quota::per_hour(2)), MemoryBackend::new());
/// assert!(limiter.check_now("ann", 1).decision.is_allowed());
/// assert!(limiter.check_now(&Key::from("ann"), 1).decision.is_allowed());
/// assert!(!limiter.check_now("ann", 1).decision.is_allowed());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyRef<'a> {
    bytes: &'a [u8],
    secrecy: Secrecy,
}

impl<'a> KeyRef<'a> {
    /// Borrows a key of these bytes.
    #[must_use]
    #[inline]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            secrecy: Secrecy::Plain,
        }
    }

    /// Borrows a key that must not leave the process in plain text.
    #[must_use]
    #[inline]
    pub const fn secret(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            secrecy: Secrecy::Secret,
        }
    }

    /// Returns the bytes of the key.
    #[must_use]
    #[inline]
    pub const fn as_bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// Returns whether the key must be digested before it leaves the process.
    #[must_use]
    #[inline]
    pub const fn is_secret(self) -> bool {
        matches!(self.secrecy, Secrecy::Secret)
    }

    /// Whether the key holds the keys of several scopes.
    #[inline]
    pub(super) const fn holds_scopes(self) -> bool {
        matches!(self.secrecy, Secrecy::Scopes)
    }
}

impl<'a> From<&'a Key> for KeyRef<'a> {
    #[inline]
    fn from(key: &'a Key) -> Self {
        Self {
            bytes: &key.bytes,
            secrecy: key.secrecy,
        }
    }
}

impl<'a> From<&'a str> for KeyRef<'a> {
    #[inline]
    fn from(text: &'a str) -> Self {
        Self::new(text.as_bytes())
    }
}

impl<'a> From<&'a [u8]> for KeyRef<'a> {
    #[inline]
    fn from(bytes: &'a [u8]) -> Self {
        Self::new(bytes)
    }
}

impl From<KeyRef<'_>> for Key {
    fn from(key: KeyRef<'_>) -> Self {
        Self {
            bytes: SmallVec::from_slice(key.bytes),
            secrecy: key.secrecy,
        }
    }
}

/// Shows that there is a key, without its bytes.
impl fmt::Debug for KeyRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyRef(..)")
    }
}

impl Clone for Key {
    #[inline]
    fn clone(&self) -> Self {
        // Copies all bytes at once. The derived clone copies one by one.
        Self {
            bytes: SmallVec::from_slice(&self.bytes),
            secrecy: self.secrecy,
        }
    }
}

impl fmt::Write for Key {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.bytes.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// Shows that there is a key, without its bytes.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for Key {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl From<&[u8]> for Key {
    fn from(bytes: &[u8]) -> Self {
        Self::new(bytes)
    }
}

impl From<u64> for Key {
    fn from(number: u64) -> Self {
        let mut key = Self::new("");
        key.push_number(number);
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_parts_are_unambiguous() {
        let join = |parts: &[&str]| Key::join(&parts.iter().map(Key::new).collect::<Vec<_>>());
        assert_eq!(join(&["user", "ab"]).as_bytes(), b"4:user2:ab");
        assert_ne!(join(&["a:b", "c"]), join(&["a", "b:c"]));
        assert_ne!(join(&["", "a"]), join(&["a", ""]));
        assert!(Key::join(&[Key::new("a"), Key::secret("b")]).is_secret());
    }

    #[test]
    fn keys_are_not_shown() {
        assert_eq!(format!("{:?}", Key::secret("hunter2")), "Key(..)");
        assert_eq!(Key::from(u64::MAX).as_bytes(), b"18446744073709551615");
    }
}
