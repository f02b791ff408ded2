use std::time::Duration;

use tower_layer::Layer;

use super::bounds::Bounds;
use super::service::Drain;

/// Reads and discards the rest of request bodies that a service has not read to the end; see the [module](super).
///
/// ```
/// use std::time::Duration;
/// use tower_sluice::drain::DrainLayer;
///
/// let up_to_1_mib = DrainLayer::new().max_bytes(1 << 20).time_limit(Duration::from_secs(2));
/// let app: axum::Router = axum::Router::new().layer(up_to_1_mib);
/// ```
///
/// Guide: [what clients see](crate::_guide::clients).
#[derive(Clone, Copy, Debug)]
#[must_use = "a layer drains nothing until a service is wrapped in it"]
pub struct DrainLayer {
    bounds: Bounds,
}

impl DrainLayer {
    /// Creates a layer that drains up to 8 MiB of each body, for up to 5 s.
    ///
    /// See the example of [`DrainLayer`].
    pub const fn new() -> Self {
        Self {
            bounds: Bounds {
                max_bytes: 8 << 20,
                time_limit: Duration::from_secs(5),
            },
        }
    }

    /// Sets the most bytes that are drained of one body; 8 MiB by default. 0 switches the layer off.
    ///
    /// ```
    /// use tower_sluice::DrainLayer;
    ///
    /// let drain = DrainLayer::new().max_bytes(1_000_000);
    /// # let _: axum::Router = axum::Router::new().layer(drain);
    /// ```
    pub const fn max_bytes(mut self, max_bytes: u64) -> Self {
        self.bounds.max_bytes = max_bytes;
        self
    }

    /// Sets the longest time of one drain; 5 s by default. 0 switches the layer off.
    ///
    /// See the example of [`DrainLayer`].
    pub const fn time_limit(mut self, time_limit: Duration) -> Self {
        self.bounds.time_limit = time_limit;
        self
    }
}

impl Default for DrainLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for DrainLayer {
    type Service = Drain<S>;

    fn layer(&self, inner: S) -> Drain<S> {
        Drain::new(inner, self.bounds)
    }
}
