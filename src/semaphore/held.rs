use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use smallvec::SmallVec;

use super::permit::{Lost, Permit};

/// When the permit of a request ends that was let through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Hold {
    /// With the last byte of the response's body, its error or its drop. A stream of gRPC, of server-sent events, or a file that is
    /// being sent counts until it ends.
    #[default]
    Body,
    /// With the response's head: what is streamed afterwards does not count.
    Head,
}

/// What a request holds while it is served, in its extensions: the permits of all [`SemaphoreLayer`](crate::SemaphoreLayer)s
/// around the handler. An extractor of axum's.
///
/// It does not make them last any longer by itself; [`keep`](Self::keep) does. After an HTTP upgrade (a WebSocket, say) that is
/// needed: the response ends at once, the connection lives on, and no layer can see its end.
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
///             () = kept.lost() => {} // somebody else may have it
///         }
///         drop(kept); // the slot is free
///     })
/// }
/// # async fn talk(_: WebSocket) {}
/// # let _: axum::Router = axum::Router::new().route("/chat", axum::routing::any(chat));
/// ```
#[derive(Clone, Default)]
pub struct HeldPermit {
    permits: SmallVec<[Weak<Permit>; 1]>,
}

/// Permits that last as long as this is kept, whatever has become of the response; see [`HeldPermit::keep`].
#[derive(Clone, Debug)]
#[must_use = "permits that are not kept end with the response"]
pub struct KeptPermit {
    permits: SmallVec<[Arc<Permit>; 1]>,
}

impl HeldPermit {
    pub(crate) fn push(&mut self, permit: &Arc<Permit>) {
        self.permits.push(Arc::downgrade(permit));
    }

    /// From now on the permits last as long as what is returned, at least. Move it into the task that lives on.
    ///
    /// It is empty if there is nothing to keep: the backend gave no answer and the request was let in all the same, the request
    /// has no key, or the response has ended already.
    pub fn keep(&self) -> KeptPermit {
        let permits = self.permits.iter().filter_map(Weak::upgrade).collect();
        KeptPermit { permits }
    }

    /// Whether the lease of one of them was lost: somebody else may be in its place.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.keep().is_lost()
    }

    /// Completes when the lease of one of them was lost; never, while they last or after they were given back. It does not keep
    /// them.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub fn lost(&self) -> AnyLost {
        self.keep().lost()
    }
}

impl KeptPermit {
    /// What is kept, of the outermost layer first.
    pub fn permits(&self) -> impl Iterator<Item = &Permit> {
        self.permits.iter().map(|permit| &**permit)
    }

    /// Whether the lease of one of them was lost: somebody else may be in its place.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.permits().any(Permit::is_lost)
    }

    /// Completes when the lease of one of them was lost; never, while they last or after they were given back. It does not keep
    /// them.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub fn lost(&self) -> AnyLost {
        AnyLost(self.permits().map(Permit::lost).collect())
    }
}

/// Completes when one of several leases was lost; see [`HeldPermit::lost`].
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
