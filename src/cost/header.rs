use http::header::{CONTENT_LENGTH, HeaderName, TRANSFER_ENCODING};
use http::{HeaderMap, Request};

use super::{CostError, CostOf};
use crate::head::Head;
use crate::quota::Cost;

/// A cost from the number in a header field, such as `content-length`. One token is one unit, or [`per`](Self::per)
/// units.
///
/// ```
/// use http::Request;
/// use http::header::CONTENT_LENGTH;
/// use tower_sluice::Cost;
/// use tower_sluice::cost::{CostOf, HeaderCost};
///
/// let kibibytes = HeaderCost::new(CONTENT_LENGTH, 1_000_000).per(1_024); // 1,000,000 bytes without a number
/// let upload = |length: &str| Request::put("/").header("content-length", length).body(());
/// assert_eq!(kibibytes.cost(&upload("1024")?), Cost::new(1));
/// assert_eq!(kibibytes.cost(&upload("1025")?), Cost::new(2));
/// assert_eq!(kibibytes.cost(&upload("0")?), Cost::ZERO);
/// assert_eq!(kibibytes.cost(&upload("-1")?), Cost::new(977));
/// assert_eq!(kibibytes.cost(&Request::put("/").body(())?), Cost::new(977));
/// # Ok::<(), http::Error>(())
/// ```
///
/// A number consists of digits only. A request without exactly one number costs as much as the number `missing`.
/// [`required`](Self::required) rejects it instead. These requests have no number:
///
/// - The field is missing. A body in chunks has no `content-length`.
/// - The field appears more than once, even with equal values.
/// - The value has a sign, a space, a fraction or a list.
/// - The field is `content-length`, and `transfer-encoding` overrides it (RFC 9112 §6.3).
///
/// A number above [`u64::MAX`] counts as [`u64::MAX`].
///
/// **A request without a body usually has no `content-length`.** Put the limit on the routes that take bodies. The
/// server enforces `content-length`: it ends the body there. **A client can write any number into
/// another field.** Use such a field only if a layer in front has checked it.
///
/// A number of 0 is free. A second quota can count the requests. A rejected upload is answered before its body is read;
/// with a [`DrainLayer`](crate::drain::DrainLayer) the client sees that response over HTTP/1.1, too:
///
/// ```
/// use axum::Router;
/// use axum::routing::{get, post};
/// use http::header::CONTENT_LENGTH;
/// use tower_sluice::cost::{HeaderCost, try_cost_fn};
/// use tower_sluice::drain::DrainLayer;
/// use tower_sluice::quota::Unit;
/// use tower_sluice::{Cost, Global, MemoryBackend, Policy, Quota, RateLimitLayer};
///
/// let policy = Policy::new("requests", Quota::per_minute(60))
///     .and("bytes", Quota::per_minute(10_000_000).with_unit(Unit::ContentBytes));
/// let limit = RateLimitLayer::new(policy, Global, MemoryBackend::new());
/// let bytes = HeaderCost::required(CONTENT_LENGTH); // 411 without a length
/// let sized = try_cost_fn(move |head| Ok(Cost::each([1, bytes.try_cost_for(head)?])));
/// let uploads = limit.clone().cost(sized);
/// let app: Router = Router::new()
///     .route("/", get(|| async { "welcome" }))
///     .layer(limit.cost(Cost::each([1, 0])))
///     .route("/upload", post(|| async { "kept" }).route_layer(uploads)) // after `.layer`: not under it
///     .layer(DrainLayer::new());
/// ```
///
/// With one quota, `1_u64.saturating_add(kibibytes.cost_for(head))` makes no request free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderCost {
    name: HeaderName,
    /// The number of a request without one. `None` if such a request is rejected.
    missing: Option<u64>,
    per: u64,
}

impl HeaderCost {
    /// Charges the number in the field `name`. A request without exactly one number is charged as if it had the number
    /// `missing`, in the units of the field.
    ///
    /// ```
    /// use tower_sluice::cost::HeaderCost;
    /// use tower_sluice::{MemoryBackend, PeerIp, Policy, RateLimitLayer};
    ///
    /// let traffic = Policy::new("uploads", "100MB/hour".parse()?);
    /// let limit = RateLimitLayer::new(traffic, PeerIp::new(), MemoryBackend::new())
    ///     .cost(HeaderCost::new(http::header::CONTENT_LENGTH, 1_000_000)); // without the field: a megabyte
    /// # let _: axum::Router = axum::Router::new().layer(limit);
    /// # Ok::<(), tower_sluice::quota::ParseQuotaError>(())
    /// ```
    #[must_use]
    pub const fn new(name: HeaderName, missing: u64) -> Self {
        let (missing, per) = (Some(missing), 1);
        Self { name, missing, per }
    }

    /// Charges the number in the field `name`, and rejects a request without exactly one number.
    ///
    /// The status is 411 (Length Required) if the field is `content-length` and the request has none, and 400
    /// otherwise. A [shadow](crate::Policy::shadow) policy passes the request uncounted.
    ///
    /// ```
    /// use http::header::CONTENT_LENGTH;
    /// use http::{Request, Response};
    /// use tower::{Service, ServiceBuilder, ServiceExt};
    /// use tower_sluice::cost::HeaderCost;
    /// use tower_sluice::{Global, MemoryBackend, Policy, Quota, RateLimitLayer};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let policy = Policy::new("bytes", Quota::per_hour(1_000_000));
    /// let limit = RateLimitLayer::new(policy, Global, MemoryBackend::new());
    /// let mut service = ServiceBuilder::new()
    ///     .layer(limit.cost(HeaderCost::required(CONTENT_LENGTH)))
    ///     .service_fn(|_: Request<()>| async { Ok::<_, std::convert::Infallible>(Response::new(String::new())) });
    /// assert_eq!(service.ready().await?.call(Request::put("/").body(())?).await?.status(), 411);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub const fn required(name: HeaderName) -> Self {
        let (missing, per) = (None, 1);
        Self { name, missing, per }
    }

    /// Sets how many units one token stands for; 1 by default. The cost is rounded up.
    ///
    /// See the example of [`HeaderCost`].
    ///
    /// # Panics
    ///
    /// Panics if `units` is 0.
    #[must_use]
    pub const fn per(mut self, units: u64) -> Self {
        assert!(units > 0, "0 units for a token: use at least 1");
        self.per = units;
        self
    }

    /// Returns the cost of a request with this head, in tokens. Closures can build their own cost from it.
    ///
    /// If the number is [`required`](Self::required) and missing, the cost is [`u64::MAX`]. No quota allows that.
    #[must_use]
    pub fn cost_for(&self, head: &Head<'_>) -> u64 {
        self.try_cost_for(head).unwrap_or(u64::MAX)
    }

    /// Returns the cost of a request with this head, in tokens, for closures of [`try_cost_fn`](super::try_cost_fn).
    ///
    /// # Errors
    ///
    /// If the number is [`required`](Self::required) and missing.
    pub fn try_cost_for(&self, head: &Head<'_>) -> Result<u64, CostError> {
        let units = match (number(head.headers, &self.name), self.missing) {
            (Some(units), _) | (None, Some(units)) => units,
            (None, None) => return Err(self.error(head.headers)),
        };
        Ok(units.div_ceil(self.per))
    }

    fn error(&self, headers: &HeaderMap) -> CostError {
        let is_chunked = headers.contains_key(TRANSFER_ENCODING);
        if self.name == CONTENT_LENGTH && (is_chunked || !headers.contains_key(CONTENT_LENGTH)) {
            CostError::LengthRequired
        } else {
            CostError::NoNumber(self.name.clone())
        }
    }
}

impl<B> CostOf<Request<B>> for HeaderCost {
    fn cost(&self, request: &Request<B>) -> Cost {
        Cost::new(self.cost_for(&Head::from(request)))
    }

    fn try_cost(&self, request: &Request<B>) -> Result<Cost, CostError> {
        self.try_cost_for(&Head::from(request)).map(Cost::new)
    }
}

/// Returns the number in the only field of this name, and `u64::MAX` for a larger one.
fn number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    if *name == CONTENT_LENGTH && headers.contains_key(TRANSFER_ENCODING) {
        return None;
    }
    let mut values = headers.get_all(name).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let digits = value.as_bytes();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0_u64, |number, digit| {
        let digit = u64::from(digit - b'0');
        number.saturating_mul(10).saturating_add(digit)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MISSING: u64 = 77;
    const UNITS: HeaderCost = HeaderCost::new(HeaderName::from_static("x-units"), MISSING);

    fn cost(cost: &HeaderCost, fields: &[(&str, &[u8])]) -> u64 {
        let request = fields.iter().fold(Request::builder(), |request, field| {
            request.header(field.0, field.1)
        });
        cost.cost(&request.body(()).expect("a valid head")).get(0)
    }

    fn units(cost: &HeaderCost, value: &str) -> u64 {
        self::cost(cost, &[("x-units", value.as_bytes())])
    }

    #[test]
    fn a_number_is_digits_and_nothing_else() {
        assert_eq!(
            ["0", "007", "4096"].map(|value| units(&UNITS, value)),
            [0, 7, 4096]
        );
        let others = [
            "", " ", "+5", "-5", " 5", "5 ", "5, 5", "5,5", "5.0", "5e3", "0x5", "five", "٥",
        ];
        for value in others {
            assert_eq!(units(&UNITS, value), MISSING, "{value:?}");
        }
        assert_eq!(cost(&UNITS, &[("x-units", b"5\xff")]), MISSING);
        assert_eq!(cost(&UNITS, &[]), MISSING);
    }

    #[test]
    fn repeated_field_counts_as_missing() {
        assert_eq!(
            cost(&UNITS, &[("x-units", b"5"), ("x-units", b"5")]),
            MISSING
        );
        assert_eq!(
            cost(&UNITS, &[("x-units", b"5"), ("x-units", b"")]),
            MISSING
        );
    }

    #[test]
    fn header_cost_rounds_up_and_uses_the_default_when_missing() {
        let kibi = UNITS.per(1_024);
        let found = ["0", "1", "1024", "1025"].map(|value| units(&kibi, value));
        assert_eq!(found, [0, 1, 1, 2]);
        assert_eq!(units(&kibi, "none"), 1, "77 units are one token of 1,024");
        let half = HeaderCost::new(HeaderName::from_static("x-units"), 3).per(2);
        assert_eq!(
            units(&half, "none"),
            2,
            "`missing` is in units of the field"
        );
    }

    #[test]
    fn too_large_numbers_cost_the_maximum() {
        let ten_to_the_64th = format!("1{:064}", 0); // a multiple of 2^64
        let found = |cost: &HeaderCost| {
            [
                "18446744073709551615",
                "18446744073709551616",
                "18446744073709551617",
                &ten_to_the_64th,
            ]
            .map(|value| units(cost, value))
        };
        assert_eq!(found(&UNITS), [u64::MAX; 4]);
        assert_eq!(found(&UNITS.per(2)), [1 << 63; 4]);
    }

    #[test]
    fn overridden_content_length_counts_as_missing() {
        let length = HeaderCost::new(CONTENT_LENGTH, MISSING);
        let five: (&str, &[u8]) = ("content-length", b"5");
        assert_eq!(cost(&length, &[five]), 5);
        assert_eq!(
            cost(&length, &[five, ("transfer-encoding", b"chunked")]),
            MISSING
        );
        assert_eq!(
            cost(
                &UNITS,
                &[("x-units", b"5"), ("transfer-encoding", b"chunked")]
            ),
            5
        );
    }

    #[test]
    fn required_number_is_an_error_when_missing() {
        let length = HeaderCost::required(CONTENT_LENGTH).per(1_024);
        let error = |cost: &HeaderCost, fields: &[(&str, &str)]| {
            let request = fields.iter().fold(Request::builder(), |request, field| {
                request.header(field.0, field.1)
            });
            let request = request.body(()).expect("a valid head");
            let found = cost.try_cost(&request).map(|cost| cost.get(0));
            if found.is_err() {
                assert_eq!(cost.cost(&request), Cost::new(u64::MAX));
            }
            found.map_err(|error| (error.status().as_u16(), error.to_string()))
        };
        let five = ("content-length", "5");
        assert_eq!(error(&length, &[five]), Ok(1));
        let required = "no `content-length`; send the length of the body in it";
        let required = Err((411, required.to_owned()));
        assert_eq!(error(&length, &[]), required);
        let chunked = ("transfer-encoding", "chunked");
        assert_eq!(error(&length, &[chunked]), required);
        assert_eq!(error(&length, &[five, chunked]), required);
        let malformed = "header `content-length` has no single number";
        let malformed = Err((400, malformed.to_owned()));
        assert_eq!(error(&length, &[five, five]), malformed);
        assert_eq!(error(&length, &[("content-length", "-5")]), malformed);
        let units = HeaderCost::required(HeaderName::from_static("x-units"));
        let malformed = "header `x-units` has no single number";
        assert_eq!(error(&units, &[]), Err((400, malformed.to_owned())));
    }

    #[test]
    #[should_panic(expected = "0 units for a token: use at least 1")]
    fn zero_units_per_token_panics_at_setup() {
        let _ = UNITS.per(0);
    }
}
