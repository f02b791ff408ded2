use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Buf;
use http::HeaderMap;
use http::header::EXPECT;
use http_body::{Body, Frame, SizeHint};
use tokio::runtime::Handle;

use super::bounds::Bounds;

/// The body of a request. Dropping it drains the unread rest; see [`DrainLayer`](super::DrainLayer).
pub struct DrainBody<B> {
    /// `None` after the drop has taken it.
    body: Option<B>,
    drain: Option<Drainage<B>>,
}

/// The settings of a drain.
struct Drainage<B> {
    bounds: Bounds,
    /// Whether the client waits for `100 Continue` before it sends the body. The first poll makes the server send that.
    awaits_continue: bool,
    /// The function [`spawn`] of the body's type. `Drop` cannot have its trait bounds.
    spawn: fn(&Handle, B, Bounds),
}

impl<B> DrainBody<B> {
    /// Creates a body that is not drained.
    pub(super) const fn plain(body: B) -> Self {
        Self {
            body: Some(body),
            drain: None,
        }
    }
}

impl<B: Body + Send + Unpin + 'static> DrainBody<B> {
    pub(super) fn drained(body: B, bounds: Bounds, headers: &HeaderMap) -> Self {
        Self {
            body: Some(body),
            drain: Some(Drainage {
                bounds,
                awaits_continue: headers.contains_key(EXPECT),
                spawn: spawn::<B>,
            }),
        }
    }
}

/// Drains a body in a new task.
fn spawn<B: Body + Send + Unpin + 'static>(runtime: &Handle, body: B, bounds: Bounds) {
    let drained = drain(body, bounds.max_bytes);
    drop(runtime.spawn(tokio::time::timeout(bounds.time_limit, drained)));
}

/// Reads and discards a body until it ends, fails, or exceeds `left` bytes.
async fn drain<B: Body + Unpin>(mut body: B, mut left: u64) {
    while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let bytes = frame.data_ref().map_or(0, Buf::remaining);
        match left.checked_sub(bytes as u64) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

impl<B> Drop for DrainBody<B> {
    fn drop(&mut self) {
        if let Some(drain) = self.drain.take()
            && !drain.awaits_continue
            && let Some(body) = self.body.take()
            && let Ok(runtime) = Handle::try_current()
        {
            (drain.spawn)(&runtime, body, drain.bounds);
        }
    }
}

impl<B: Body + Unpin> Body for DrainBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else {
            return Poll::Ready(None);
        };
        if let Some(drain) = &mut this.drain {
            drain.awaits_continue = false;
        }
        let frame = Pin::new(&mut *body).poll_frame(cx);
        let has_ended = match &frame {
            Poll::Pending => false,
            Poll::Ready(Some(Ok(_))) => body.is_end_stream(),
            Poll::Ready(_) => true,
        };
        if has_ended {
            this.drain = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Some(body) => body.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}

impl<B> fmt::Debug for DrainBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainBody")
            .field("is_drained", &self.drain.is_some())
            .finish_non_exhaustive()
    }
}

/// Services that answer with an empty body of the request's type need a default.
impl<B: Default> Default for DrainBody<B> {
    fn default() -> Self {
        Self::plain(B::default())
    }
}
