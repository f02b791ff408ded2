use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use smallvec::SmallVec;

use super::permit::{Lost, Permit};

/// When the permit of an allowed request is released.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Hold {
    /// With the end of the response's body: its last byte, its error or its drop. Streams and files count until they
    /// end.
    #[default]
    Body,
    /// With the response's head. A streamed body does not count.
    Head,
}

/// The permits that a request holds while it is served, from all [`SemaphoreLayer`](crate::SemaphoreLayer)s around the
/// handler. It is in the request's extensions, and is an axum extractor.
///
/// It does not extend the permits; [`keep`](Self::keep) does. An HTTP upgrade, such as a WebSocket, needs that: the
/// response ends immediately, the connection continues, and no layer can see its end.
///
/// ```
/// use axum::extract::ws::{WebSocket, WebSocketUpgrade};
/// use axum::response::Response;
/// use tower_sluice::concurrency::HeldPermit;
///
/// async fn chat(held: HeldPermit, upgrade: WebSocketUpgrade) -> Response {
///     let kept = held.keep();
///     upgrade.on_upgrade(|socket| async move {
///         tokio::select! {
///             () = talk(socket) => {}
///             () = kept.lost() => {} // another holder may have the permit
///         }
///         drop(kept); // releases the permit
///     })
/// }
/// # async fn talk(_: WebSocket) {}
/// # let _: axum::Router = axum::Router::new().route("/chat", axum::routing::any(chat));
/// ```
#[derive(Clone, Default)]
pub struct HeldPermit {
    permits: SmallVec<[Weak<Permit>; 1]>,
}

/// Permits that are held until this value is dropped, even after the response; see [`HeldPermit::keep`].
#[derive(Clone, Debug)]
#[must_use = "permits that are not kept end with the response"]
pub struct KeptPermit {
    permits: SmallVec<[Arc<Permit>; 1]>,
}

impl HeldPermit {
    pub(crate) fn push(&mut self, permit: &Arc<Permit>) {
        self.permits.push(Arc::downgrade(permit));
    }

    /// Returns a value that extends the permits until it is dropped. Move it into the task that continues.
    ///
    /// The value is empty if the request has no key, if the backend failed and the request was allowed, or if the
    /// response has ended.
    pub fn keep(&self) -> KeptPermit {
        let permits = self.permits.iter().filter_map(Weak::upgrade).collect();
        KeptPermit { permits }
    }

    /// Returns whether the lease of a permit was lost. Then another holder may have the permit.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.keep().is_lost()
    }

    /// Completes when the lease of a permit is lost. It never completes while all leases last, or after the permits are
    /// released. The future does not extend the permits.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub fn lost(&self) -> AnyLost {
        self.keep().lost()
    }
}

impl KeptPermit {
    /// Returns the permits, from the outermost layer inwards.
    pub fn permits(&self) -> impl Iterator<Item = &Permit> {
        self.permits.iter().map(|permit| &**permit)
    }

    /// Returns whether the lease of a permit was lost. Then another holder may have the permit.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.permits().any(Permit::is_lost)
    }

    /// Completes when the lease of a permit is lost. It never completes while all leases last, or after the permits are
    /// released. The future does not extend the permits.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub fn lost(&self) -> AnyLost {
        AnyLost(self.permits().map(Permit::lost).collect())
    }
}

/// Completes when one of several leases is lost; see [`HeldPermit::lost`].
#[must_use = "futures do nothing unless polled"]
pub struct AnyLost(SmallVec<[Lost; 1]>);

impl Future for AnyLost {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut all = self.0.iter_mut();
        if all.any(|lost| Pin::new(lost).poll(cx).is_ready()) {
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

impl fmt::Debug for AnyLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnyLost(..)")
    }
}

impl fmt::Debug for HeldPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldPermit")
            .field("permits", &self.keep().permits)
            .finish()
    }
}
