use std::fmt;
use std::marker::PhantomData;

use axum::extract::FromRequestParts;
use http::request::Parts;

/// Runs an axum extractor and inserts its value into the request's extensions, where
/// [`Extension<T>`](super::Extension) reads it. Use it for keys that must be awaited.
///
/// The extractor runs once, in a layer in front of the limit. Handlers read the same value with [`axum::Extension`]. If
/// the extractor rejects a request, its rejection is the response.
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
///         Ok(Self(42)) // awaits a session store
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
