//! Partition keys: they identify a client's share of a limit and do not reveal its key.

use std::fmt;

use crate::key::Key;

/// The length of the hash that clients see.
const LENGTH: usize = 16;

/// The length of the shortest secret.
#[cfg(feature = "partition-key")]
const SHORTEST: usize = 16;

/// A keyed hash of a key, for the parameter `pk` of draft 11.
///
/// All servers with the same secret compute the same hash. Without the secret, the key can neither be computed nor be
/// found by trial.
// In a box, because it is rare and allowed requests are moved.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PartitionKey(Box<[u8; LENGTH]>);

impl PartitionKey {
    /// Returns the bytes of the hash.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &*self.0
    }
}

impl fmt::Debug for PartitionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PartitionKey(..)")
    }
}

/// Computes partition keys.
#[derive(Clone)]
pub(crate) struct Partitioner(
    #[cfg(feature = "partition-key")] std::sync::Arc<hmac::Hmac<sha2::Sha256>>,
    #[cfg(not(feature = "partition-key"))] std::convert::Infallible,
);

impl fmt::Debug for Partitioner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Partitioner(..)")
    }
}

/// The error of a secret below 16 bytes. A client that knows its key could find such a secret by trial.
#[cfg(feature = "partition-key")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShortSecret {
    /// The length in bytes.
    pub length: usize,
}

#[cfg(feature = "partition-key")]
impl fmt::Display for ShortSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = self.length;
        write!(
            f,
            "invalid secret of {length} bytes for partition keys: use at least {SHORTEST} random bytes, such as the \
             output of `openssl rand -hex 16`"
        )
    }
}

#[cfg(feature = "partition-key")]
impl std::error::Error for ShortSecret {}

#[cfg(feature = "partition-key")]
impl Partitioner {
    pub(crate) fn try_new(secret: &[u8]) -> Result<Self, ShortSecret> {
        use hmac::Mac;

        let length = secret.len();
        if length < SHORTEST {
            return Err(ShortSecret { length });
        }
        // HMAC accepts a key of any length.
        let keyed = hmac::Hmac::new_from_slice(secret).map_err(|_| ShortSecret { length })?;
        Ok(Self(std::sync::Arc::new(keyed)))
    }

    /// # Panics
    ///
    /// Panics if [`try_new`](Self::try_new) would return an error.
    pub(crate) fn new(secret: &[u8]) -> Self {
        match Self::try_new(secret) {
            Ok(partitioner) => partitioner,
            Err(error) => panic!("{error}"),
        }
    }

    pub(crate) fn partition_key(&self, key: &Key) -> PartitionKey {
        use hmac::Mac;

        let mut mac = hmac::Hmac::clone(&self.0);
        // A secret key differs from a plain key of the same bytes.
        mac.update(&[u8::from(key.is_secret())]);
        mac.update(key.as_bytes());
        let mut bytes = Box::new([0; LENGTH]);
        bytes.copy_from_slice(&mac.finalize().into_bytes()[..LENGTH]);
        PartitionKey(bytes)
    }
}

#[cfg(not(feature = "partition-key"))]
impl Partitioner {
    pub(crate) fn partition_key(&self, _: &Key) -> PartitionKey {
        match self.0 {}
    }
}

#[cfg(all(test, feature = "partition-key"))]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"a secret of all servers";

    /// The value of `openssl dgst -sha256 -hmac`, so that servers of all versions agree.
    #[test]
    fn partition_key_is_the_first_half_of_an_hmac() {
        let known = 0x6e00_b5ba_aef0_d7c7_0b07_909a_7917_8322_u128;
        let ann = Partitioner::new(SECRET).partition_key(&Key::from("ann"));
        assert_eq!(ann.as_bytes(), known.to_be_bytes());
    }

    #[test]
    fn partition_key_differs_by_key_secrecy_and_secret() {
        let of = |secret, key: &Key| Partitioner::new(secret).partition_key(key);
        let ann = of(SECRET, &Key::from("ann"));
        assert_eq!(ann, of(SECRET, &Key::from("ann")), "on any server");
        assert_ne!(ann, of(SECRET, &Key::from("bob")));
        assert_ne!(ann, of(SECRET, &Key::secret("ann")));
        assert_ne!(ann, of(b"another secret of all", &Key::from("ann")));
        assert_eq!(format!("{ann:?}"), "PartitionKey(..)");
    }

    #[test]
    fn short_secret_is_an_error() {
        let short = Partitioner::try_new(b"fifteen bytes..").err();
        let why = "invalid secret of 15 bytes for partition keys: use at least 16 random bytes, such as the output of \
                   `openssl rand -hex 16`";
        assert_eq!(short.map(|short| short.to_string()).as_deref(), Some(why));
        assert!(Partitioner::try_new(b"sixteen bytes...").is_ok());
    }
}
