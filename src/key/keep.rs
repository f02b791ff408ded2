use std::fmt;
use std::marker::PhantomData;

use axum::extract::FromRequestParts;
use http::request::Parts;

/// Leaves what an extractor of axum finds in the request's extensions, for [`Extension<T>`](super::Extension) to read:
/// the way for keys that must be awaited.
///
/// The extractor runs once, in a layer in front of the limit; handlers read the same value with [`axum::Extension`]. If
/// it rejects a request, that is the answer.
///
/// ```
/// use axum::extract::FromRequestParts;
/// use axum::middleware::from_extractor;
/// use axum::routing::get;
/// use axum::{Extension, Router};
/// use http::StatusCode;
/// use http::request::Parts;
/// use tower_sluice::key::{self, Keep, ToKey};
/// use tower_sluice::{Key, MemoryBackend, Policy, Quota, RateLimitLayer};
///
/// #[derive(Clone)]
/// struct User(u64);
///
/// impl<S: Sync> FromRequestParts<S> for User {
///     type Rejection = StatusCode;
///
///     async fn from_request_parts(_parts: &mut Parts, _: &S) -> Result<Self, StatusCode> {
///         Ok(Self(42)) // as the session store says, which is awaited
///     }
/// }
///
/// impl ToKey for User {
///     fn to_key(&self) -> Key {
///         self.0.into()
///     }
/// }
///
/// let policy = Policy::new("per-user", Quota::per_minute(60));
/// let limit = RateLimitLayer::new(policy, key::Extension::<User>::new(), MemoryBackend::new());
/// let app: Router = Router::new()
///     .route("/", get(|Extension(user): Extension<User>| async move { format!("hello {}", user.0) }))
///     .layer(limit)
///     .layer(from_extractor::<Keep<User>>()); // added last, runs first
/// ```
pub struct Keep<T>(PhantomData<fn() -> T>);

impl<T> fmt::Debug for Keep<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keep")
    }
}

impl<S, T> FromRequestParts<S> for Keep<T>
where
    S: Sync,
    T: FromRequestParts<S> + Clone + Send + Sync + 'static,
{
    type Rejection = T::Rejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, T::Rejection> {
        let value = T::from_request_parts(parts, state).await?;
        parts.extensions.insert(value);
        Ok(Self(PhantomData))
    }
}
