//! Names of keys in Redis: `{prefix:policy:identity}:suffix`.
//!
//! The braces are a hash tag. All quotas of a policy for one identity share a slot. Different identities spread.

use std::fmt;

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use smallvec::SmallVec;

use super::super::BackendError;
use crate::key::KeyRef;
use crate::message::{Quoted, plain_name};
use crate::policy::Policy;

/// The prefix and the secret of all names. They must be the same on all servers of a fleet.
#[derive(Clone)]
pub(super) struct Naming {
    prefix: Box<str>,
    secret: Option<Hmac<Sha256>>,
}

/// The name of a key in Redis, without its suffix.
pub(super) type KeyName = SmallVec<[u8; 80]>;

/// The names of the keys of one request: one, or one for each scope of its policy.
#[derive(Clone, Debug)]
pub(super) struct KeyNames {
    innermost: KeyName,
    outer: Box<[KeyName]>,
}

impl KeyNames {
    /// Returns the name of the key of a scope.
    #[inline]
    pub(super) fn get(&self, scope: usize) -> &KeyName {
        match scope {
            0 => &self.innermost,
            _ => self.outer.get(scope - 1).unwrap_or(&self.innermost),
        }
    }
}

impl From<KeyName> for KeyNames {
    fn from(innermost: KeyName) -> Self {
        Self {
            innermost,
            outer: Box::default(),
        }
    }
}

/// The longest identity that is not digested.
const LONGEST_PLAIN: usize = 200;
/// The bytes of a digest that are kept: 128 bits.
const DIGEST: usize = 16;

impl Default for Naming {
    fn default() -> Self {
        Self {
            prefix: "sluice".into(),
            secret: None,
        }
    }
}

impl Naming {
    pub(super) fn with_prefix(self, prefix: &str) -> Result<Self, BackendError> {
        let safe = (1..=64).contains(&prefix.len()) && prefix.bytes().all(is_plain);
        if !safe {
            return Err(BackendError::config(format!(
                "invalid prefix {}: use 1 to 64 of A-Z a-z 0-9 _ . -, such as {:?}",
                Quoted(prefix),
                plain_name(prefix)
            )));
        }
        let prefix = prefix.into();
        Ok(Self { prefix, ..self })
    }

    pub(super) fn with_secret(self, secret: &[u8]) -> Self {
        // HMAC accepts a secret of any length, so this never fails.
        let secret = Hmac::new_from_slice(secret).ok();
        Self { secret, ..self }
    }

    /// Returns the names of the keys of a request.
    pub(super) fn names<'k>(&self, policy: &Policy, key: impl Into<KeyRef<'k>>) -> KeyNames {
        let key = key.into();
        let last = policy.scopes() - 1;
        if last == 0 {
            return self.name(policy.name(), key).into();
        }
        let name = |scope| self.name_of_scope(policy, key, scope, last);
        KeyNames {
            innermost: name(0),
            outer: (1..=last).map(name).collect(),
        }
    }

    fn name_of_scope(
        &self,
        policy: &Policy,
        key: KeyRef<'_>,
        scope: usize,
        last: usize,
    ) -> KeyName {
        let (own, key_of) = (policy.scope_name(scope), |scope| key.scope(scope));
        if scope == last || !policy.is_by_outermost() {
            return self.name(own, key_of(scope));
        }
        // The hash tag of the outermost scope, so that all keys share its slot.
        let mut name = self.name(policy.scope_name(last), key_of(last));
        name.push(b'/');
        name.extend_from_slice(own.as_bytes());
        name.push(b':');
        self.push_identity(&mut name, key_of(scope));
        name.push(b':');
        name
    }

    /// Returns `{prefix:policy:identity}:`. The caller appends a suffix.
    pub(super) fn name<'k>(&self, policy: &str, key: impl Into<KeyRef<'k>>) -> KeyName {
        let mut name = KeyName::new();
        name.push(b'{');
        name.extend_from_slice(self.prefix.as_bytes());
        name.push(b':');
        name.extend_from_slice(policy.as_bytes());
        name.push(b':');
        self.push_identity(&mut name, key.into());
        name.extend_from_slice(b"}:");
        name
    }

    fn push_identity(&self, name: &mut KeyName, key: KeyRef<'_>) {
        let bytes = key.as_bytes();
        let plain = !key.is_secret()
            && (1..=LONGEST_PLAIN).contains(&bytes.len())
            && bytes.iter().copied().all(is_plain);
        if plain {
            name.push(b'r');
            name.extend_from_slice(bytes);
        } else {
            // A secret and a plain identity of the same bytes are different keys.
            name.push(if key.is_secret() { b's' } else { b'h' });
            for byte in self.digest(bytes) {
                name.extend([byte >> 4, byte & 15].map(|digit| HEX[usize::from(digit)]));
            }
        }
    }

    fn digest(&self, bytes: &[u8]) -> [u8; DIGEST] {
        let whole = match &self.secret {
            Some(secret) => secret.clone().chain_update(bytes).finalize().into_bytes(),
            None => Sha256::digest(bytes),
        };
        let mut digest = [0; DIGEST];
        digest.copy_from_slice(&whole[..DIGEST]);
        digest
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-')
}

/// Shows whether there is a secret, and never the secret.
impl fmt::Debug for Naming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Naming")
            .field("prefix", &self.prefix)
            .field("secret", &self.secret.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;
    use crate::quota::Quota;

    fn name(naming: &Naming, key: &Key) -> String {
        String::from_utf8(naming.name("api", key).to_vec()).expect("ASCII")
    }

    #[test]
    fn plain_identities_stay_readable_and_others_are_digested() {
        let naming = Naming::default();
        assert_eq!(name(&naming, &Key::from("alice")), "{sluice:api:ralice}:");
        let digest = "h82d8ec67c8d014fd414d60c45db8a07f";
        assert_eq!(
            name(&naming, &Key::from("user:{42}")),
            format!("{{sluice:api:{digest}}}:")
        );
        // An identity that looks like a digest is another key than the digested identity.
        assert_eq!(
            name(&naming, &Key::from(digest)),
            format!("{{sluice:api:r{digest}}}:")
        );
        let (open, secret) = (Key::from("a b"), Key::secret("a b"));
        assert_ne!(name(&naming, &open), name(&naming, &secret));
        let (long, longer) = ("x".repeat(200), "x".repeat(201));
        assert_eq!(name(&naming, &Key::from(&*long)).len(), 215);
        for digested in [
            Key::from(&*longer),
            Key::from(""),
            Key::from("a b"),
            Key::new([0xff]),
            Key::secret("alice"),
        ] {
            assert_eq!(name(&naming, &digested).len(), 13 + 32 + 2);
        }
    }

    #[test]
    fn scopes_have_their_own_names_or_share_the_outermost_hash_tag() {
        let policy = |name| Policy::new(name, Quota::per_second(1));
        let joined = policy("user").within(&policy("team"));
        let joined = joined.and_then(|joined| joined.within(&policy("org")));
        let joined = joined.expect("three scopes");
        let keys = ["ann", "red", "acme"].map(Key::from);
        let names = |policy: &Policy| {
            let names = Naming::default().names(policy, &Key::of_scopes(&keys));
            [0, 1, 2].map(|scope| String::from_utf8(names.get(scope).to_vec()).expect("ASCII"))
        };
        let own = [
            "{sluice:user:rann}:",
            "{sluice:team:rred}:",
            "{sluice:org:racme}:",
        ];
        assert_eq!(names(&joined), own);
        let tagged = [
            "{sluice:org:racme}:/user:rann:",
            "{sluice:org:racme}:/team:rred:",
            "{sluice:org:racme}:",
        ];
        assert_eq!(names(&joined.by_outermost()), tagged);
    }

    #[test]
    fn secret_changes_all_digests() {
        let with = |secret: &[u8]| Naming::default().with_secret(secret);
        let key = Key::secret("token");
        let plain = name(&Naming::default(), &key);
        assert_ne!(name(&with(b"one"), &key), plain);
        assert_ne!(name(&with(b"one"), &key), name(&with(b"two"), &key));
        assert_eq!(name(&with(b"one"), &key), name(&with(b"one"), &key));
    }

    #[test]
    fn prefix_with_hash_tag_is_an_error() {
        for prefix in ["", "a{b", "a b", "a:b", &"x".repeat(65)] {
            let error = Naming::default().with_prefix(prefix).unwrap_err();
            assert!(
                error.to_string().starts_with("invalid prefix \""),
                "{error}"
            );
        }
    }
}
