//! The keys of several scopes in one [`Key`].
//!
//! Each part is its secrecy (one byte), its length (four bytes) and its bytes.

use super::identity::{Key, KeyRef};

/// The bytes in front of a part.
const HEAD: usize = 5;

impl Key {
    /// Joins the keys of the scopes of one decision, innermost first. A key that holds several adds all of them.
    pub(crate) fn of_scopes<'a>(keys: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut joined = Self::empty_scopes();
        for key in keys {
            if key.holds_scopes() {
                joined.extend(key.as_bytes());
                continue;
            }
            // A key longer than 4 GiB does not fit in a request.
            let length = u32::try_from(key.as_bytes().len()).unwrap_or(u32::MAX);
            joined.extend(&[u8::from(key.is_secret())]);
            joined.extend(&length.to_le_bytes());
            joined.extend(&key.as_bytes()[..length as usize]);
        }
        joined
    }

    /// Splits the keys of the outermost scopes off. A key of one scope applies to every scope.
    pub(crate) fn split_scopes(&self, outermost: usize) -> (Self, Self) {
        if !self.holds_scopes() {
            return (self.clone(), self.clone());
        }
        let parts: Vec<Self> = Parts(self.as_bytes()).map(Self::from).collect();
        let (inner, outer) = parts.split_at(parts.len().saturating_sub(outermost));
        let join = |parts: &[Self]| match parts {
            [only] => only.clone(),
            several => Self::of_scopes(several),
        };
        (join(inner), join(outer))
    }
}

impl<'a> KeyRef<'a> {
    /// Returns the key of the scope at `index`. A key of one scope applies to every scope.
    pub(crate) fn scope(self, index: usize) -> Self {
        if !self.holds_scopes() {
            return self;
        }
        Parts(self.as_bytes()).nth(index).unwrap_or(self)
    }
}

/// The parts of a key that holds several.
struct Parts<'a>(&'a [u8]);

impl<'a> Iterator for Parts<'a> {
    type Item = KeyRef<'a>;

    fn next(&mut self) -> Option<KeyRef<'a>> {
        let (head, rest) = self.0.split_first_chunk::<HEAD>()?;
        let [secret, length @ ..] = *head;
        let length = usize::try_from(u32::from_le_bytes(length)).ok()?;
        let (bytes, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(match secret {
            0 => KeyRef::new(bytes),
            _ => KeyRef::secret(bytes),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(key: &Key, index: usize) -> Key {
        Key::from(KeyRef::from(key).scope(index))
    }

    #[test]
    fn scopes_keep_their_bytes_and_their_secrecy() {
        let keys = [Key::from("ann"), Key::secret("red"), Key::from("")];
        let joined = Key::of_scopes(&keys);
        for (index, key) in keys.iter().enumerate() {
            assert_eq!(part(&joined, index), *key);
        }
        assert_ne!(joined, Key::new(joined.as_bytes()));
        assert_eq!(part(&Key::from("ann"), 7), Key::from("ann"));
    }

    #[test]
    fn scopes_are_joined_one_by_one_or_at_once() {
        let [ann, red, acme] = ["ann", "red", "acme"].map(Key::from);
        let all = Key::of_scopes([&ann, &red, &acme]);
        let inner = Key::of_scopes([&ann, &red]);
        assert_eq!(Key::of_scopes([&inner, &acme]), all);
        assert_eq!(all.split_scopes(1), (inner.clone(), acme.clone()));
        assert_eq!(inner.split_scopes(1), (ann.clone(), red.clone()));
        let outer = Key::of_scopes([&red, &acme]);
        assert_eq!(all.split_scopes(2), (ann.clone(), outer));
        assert_eq!(ann.split_scopes(1), (ann.clone(), ann.clone()));
    }
}
