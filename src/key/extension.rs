use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;

use super::{Key, KeyError, KeyExtractor};
use crate::head::RequestHead;

/// A value that a layer in front inserts into the request's extensions: a user, a tenant, a [`Key`]. That layer can
/// await.
///
/// ```
/// use http::Request;
/// use tower_sluice::Key;
/// use tower_sluice::key::{Extension, KeyExtractor};
///
/// let request = Request::builder().extension(42_u64).body(())?;
/// assert_eq!(Extension::<u64>::new().key(&request)?, Key::from("42"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Extension<T>(PhantomData<fn() -> T>);

/// Converts a value to a key.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be converted to a key",
    note = "implement `ToKey` for it, or insert a `Key` into the extensions"
)]
pub trait ToKey {
    /// Returns the key.
    fn to_key(&self) -> Key;
}

impl<T> Extension<T> {
    /// Uses the extension of type `T`.
    #[must_use]
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T> Default for Extension<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Clone for Extension<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Extension<T> {}

impl<T> fmt::Debug for Extension<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Extension<{}>", type_name::<T>())
    }
}

impl<R: RequestHead, T: ToKey + Clone + Send + Sync + 'static> KeyExtractor<R> for Extension<T> {
    fn key(&self, request: &R) -> Result<Key, KeyError> {
        match request.extensions().get::<T>() {
            Some(value) => Ok(value.to_key()),
            None => Err(KeyError::MissingExtension(type_name::<T>())),
        }
    }
}

impl ToKey for Key {
    fn to_key(&self) -> Key {
        self.clone()
    }
}

impl ToKey for String {
    fn to_key(&self) -> Key {
        Key::new(self)
    }
}

impl ToKey for u64 {
    fn to_key(&self) -> Key {
        Key::from(*self)
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn a_missing_extension_is_named() {
        let request = Request::builder().extension(7_u64).body(()).expect("valid");
        assert_eq!(Extension::<u64>::new().key(&request), Ok(Key::from("7")));
        let error = Extension::<String>::new().key(&request).unwrap_err();
        assert_eq!(error.status(), 500);
        assert!(
            error
                .to_string()
                .starts_with("no `alloc::string::String` in the request's extensions"),
            "{error}"
        );
    }
}
