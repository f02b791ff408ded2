use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::handle::Charge;
use super::settlement::Settlement;
use crate::quota::Cost;

/// Counts the units of a stream while they pass, and settles the charge of its request when the last clone is dropped.
///
/// It is made by [`Charge::meter`] or [`Charge::meter_by`]. It does not matter how the stream ends: by its last chunk,
/// an error, a client that disconnects, or a panic. Clones are one meter, for example one in the body of the request
/// and one in the body of the response.
///
/// - The estimate stays charged while the stream runs. Other requests see the counted units after the settlement.
/// - The first settlement takes effect. If the charge was settled before, the meter changes nothing.
/// - A count above the estimate is charged even above the limit. A count of 0 refunds the whole estimate.
/// - A remote backend settles in the background, so the last drop must be within a Tokio runtime.
///
/// ```
/// use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let limiter = Limiter::new(Policy::new("llm", Quota::per_hour(100)), MemoryBackend::new());
/// let ann = Key::from("ann");
/// let meter = limiter.try_acquire(&ann, 30).await?.meter(); // 30 is an estimate
/// for chunk in ["it", "is", "known"] {
///     meter.add(chunk.len() as u64);
/// }
/// assert_eq!(limiter.peek(&ann).await?.remaining(), 70);
/// drop(meter);
/// assert_eq!(limiter.peek(&ann).await?.remaining(), 91); // 9 were counted
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a meter that is dropped settles its charge at once"]
pub struct Meter(Arc<Count>);

type UnitCost = dyn Fn(u64) -> Cost + Send + Sync;

struct Count {
    charge: Charge,
    units: AtomicU64,
    /// The cost of a number of units. Without it, a unit is one token.
    cost: Option<Box<UnitCost>>,
}

impl Meter {
    /// Counts `units` more. The count stops at [`u64::MAX`].
    pub fn add(&self, units: u64) {
        let add = |counted: u64| Some(counted.saturating_add(units));
        // The closure always returns a value, so the update succeeds.
        let _ = self.0.units.fetch_update(Relaxed, Relaxed, add);
    }

    /// Returns the number of units that all clones have counted.
    #[must_use]
    pub fn counted(&self) -> u64 {
        self.0.units.load(Relaxed)
    }

    /// Wraps a body, so that its bytes are counted while they pass. The body has a clone of the meter.
    pub fn body<B>(&self, body: B) -> MeteredBody<B> {
        let meter = Some(self.clone());
        MeteredBody { body, meter }
    }

    /// Settles the charge now, at the units that were counted. Units that are counted later are not charged.
    ///
    /// # Errors
    ///
    /// Awaiting the [`Settlement`] returns an error if the charge was settled before, or if the backend failed.
    pub fn settle(&self) -> Settlement {
        self.0.settle()
    }
}

impl Count {
    fn settle(&self) -> Settlement {
        let units = self.units.load(Relaxed);
        match &self.cost {
            Some(cost) => self.charge.settle(cost(units)),
            None => self.charge.settle(units),
        }
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        drop(self.settle());
    }
}

impl fmt::Debug for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Count")
            .field("charge", &self.charge)
            .field("units", &self.units)
            .finish_non_exhaustive()
    }
}

impl Charge {
    /// Returns a meter that settles this charge at the number of units it has counted, one token each.
    ///
    /// ```
    /// use axum::body::Body;
    /// use axum::response::Response;
    /// use tower_sluice::Charge;
    ///
    /// /// Charges the bytes that the client has received.
    /// async fn download(charge: Charge) -> Response {
    ///     Response::new(Body::new(charge.meter().body(Body::from("a long file"))))
    /// }
    /// # let _ = axum::Router::<()>::new().route("/", axum::routing::get(download));
    /// ```
    pub fn meter(&self) -> Meter {
        self.meter_with(None)
    }

    /// Returns a meter that settles this charge at the cost of the units it has counted, by a closure.
    ///
    /// ```
    /// use tower_sluice::{Cost, Key, Limiter, MemoryBackend, Policy, Quota};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let policy = Policy::new("requests", Quota::per_hour(100)).and("kib", Quota::per_hour(1_000));
    /// let limiter = Limiter::new(policy, MemoryBackend::new());
    /// let ann = Key::from("ann");
    /// let charge = limiter.try_acquire(&ann, Cost::each([1, 0])).await?;
    /// let meter = charge.meter_by(|bytes| Cost::each([1, bytes.div_ceil(1_024)]));
    /// meter.add(5_000);
    /// drop(meter);
    /// let left = limiter.peek(&ann).await?;
    /// assert_eq!(left.quotas().iter().map(|quota| quota.remaining()).collect::<Vec<_>>(), [99, 995]);
    /// # Ok(()) }
    /// ```
    pub fn meter_by<C: Into<Cost>>(
        &self,
        cost: impl Fn(u64) -> C + Send + Sync + 'static,
    ) -> Meter {
        self.meter_with(Some(Box::new(move |units| cost(units).into())))
    }

    fn meter_with(&self, cost: Option<Box<UnitCost>>) -> Meter {
        Meter(Arc::new(Count {
            charge: self.clone(),
            units: AtomicU64::new(0),
            cost,
        }))
    }
}

pin_project! {
    /// A body whose bytes a [`Meter`] counts while they pass. It is made by [`Meter::body`].
    ///
    /// Bytes count when they are read from the body, and trailers do not count. The meter ends with the last byte, an
    /// error, or the drop of the body.
    #[derive(Debug)]
    pub struct MeteredBody<B> {
        // Fields are dropped in this order, so the body ends before its meter.
        #[pin]
        body: B,
        meter: Option<Meter>,
    }
}

impl<B: Body> Body for MeteredBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        if let Some(meter) = this.meter {
            if let Some(Ok(frame)) = &frame {
                let bytes = frame.data_ref().map_or(0, Buf::remaining);
                meter.add(bytes as u64);
            }
            if !matches!(frame, Some(Ok(_))) || this.body.is_end_stream() {
                *this.meter = None;
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
