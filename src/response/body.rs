use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::semaphore::Permit;

pin_project! {
    /// The inner service's body, or the short body of a rejection. It is a [`Body`] of [`Bytes`] if the inner body is.
    ///
    /// A body that holds a permit releases it with its last byte, its error, or its drop.
    #[derive(Debug)]
    pub struct ResponseBody<B> {
        #[pin]
        kind: BodyKind<B>,
    }
}

pin_project! {
    #[project = KindProj]
    #[derive(Debug)]
    enum BodyKind<B> {
        // Fields are dropped in this order, so the body ends before its permit.
        Inner { #[pin] body: B, permit: Option<Arc<Permit>> },
        Ours { body: Option<Bytes> },
        // The omitted body of a response to `HEAD`, of unknown length.
        Omitted,
    }
}

impl<B> ResponseBody<B> {
    /// Wraps the inner service's body.
    pub fn inner(body: B) -> Self {
        Self {
            kind: BodyKind::Inner { body, permit: None },
        }
    }

    /// Wraps the inner service's body, which holds a permit.
    pub(crate) fn holding(body: B, permit: Arc<Permit>) -> Self {
        let permit = Some(permit);
        Self {
            kind: BodyKind::Inner { body, permit },
        }
    }

    /// Returns the bytes of a rejection, or the body if it is another one.
    #[cfg(feature = "axum")]
    pub(super) fn into_bytes(self) -> Result<Bytes, Self> {
        match self.kind {
            BodyKind::Ours { body } => Ok(body.unwrap_or_default()),
            kind => Err(Self { kind }),
        }
    }

    /// The length of a rejection's body.
    pub(crate) fn own_length(&self) -> Option<usize> {
        match &self.kind {
            BodyKind::Inner { .. } | BodyKind::Omitted => None,
            BodyKind::Ours { body } => Some(body.as_ref().map_or(0, Bytes::len)),
        }
    }

    /// An empty body in place of one of any length.
    pub(crate) fn omitted() -> Self {
        Self {
            kind: BodyKind::Omitted,
        }
    }

    pub(crate) fn empty() -> Self {
        Self {
            kind: BodyKind::Ours { body: None },
        }
    }
}

/// Converts the body of a rejection.
impl<B> From<Bytes> for ResponseBody<B> {
    fn from(body: Bytes) -> Self {
        let body = (!body.is_empty()).then_some(body);
        Self {
            kind: BodyKind::Ours { body },
        }
    }
}

/// Some layers answer with an empty body of the service's type, such as CORS and timeouts.
impl<B: Default> Default for ResponseBody<B> {
    fn default() -> Self {
        Self::inner(B::default())
    }
}

impl<B: Body<Data = Bytes>> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Poll::Ready(match self.project().kind.project() {
            KindProj::Inner { mut body, permit } => {
                let frame = ready!(body.as_mut().poll_frame(cx));
                if permit.is_some() && (!matches!(frame, Some(Ok(_))) || body.is_end_stream()) {
                    *permit = None;
                }
                frame
            }
            KindProj::Ours { body } => body.take().map(|body| Ok(Frame::data(body))),
            KindProj::Omitted => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            BodyKind::Inner { body, .. } => body.is_end_stream(),
            BodyKind::Ours { body } => body.is_none(),
            BodyKind::Omitted => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            BodyKind::Inner { body, .. } => body.size_hint(),
            BodyKind::Ours { body } => {
                SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64))
            }
            BodyKind::Omitted => SizeHint::default(),
        }
    }
}
