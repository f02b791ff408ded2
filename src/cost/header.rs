use http::header::{CONTENT_LENGTH, HeaderName, TRANSFER_ENCODING};
use http::{HeaderMap, Request};

use super::CostOf;
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
/// let kibibytes = HeaderCost::new(CONTENT_LENGTH, 1_000).per(1_024); // 1,000 tokens without a number
/// let upload = |length: &str| Request::put("/").header("content-length", length).body(());
/// assert_eq!(kibibytes.cost(&upload("1024")?), Cost::new(1));
/// assert_eq!(kibibytes.cost(&upload("1025")?), Cost::new(2));
/// assert_eq!(kibibytes.cost(&upload("0")?), Cost::ZERO);
/// assert_eq!(kibibytes.cost(&upload("-1")?), Cost::new(1_000));
/// assert_eq!(kibibytes.cost(&Request::put("/").body(())?), Cost::new(1_000));
/// # Ok::<(), http::Error>(())
/// ```
///
/// A number consists of digits only. A request without exactly one number costs `missing`:
///
/// - The field is missing. A body in chunks has no `content-length`.
/// - The field appears more than once, even with equal values.
/// - The value has a sign, a space, a fraction or a list.
/// - The field is `content-length`, and `transfer-encoding` overrides it (RFC 9112 §6.3).
///
/// A number above [`u64::MAX`] costs [`u64::MAX`], and no quota can allow that. `HeaderCost::new(name, u64::MAX)`
/// likewise denies every request without a number.
///
/// **A request without a body usually has no `content-length`, and costs `missing`.** Put the limit on the routes that
/// take bodies. The server enforces `content-length`: it ends the body there. **A client can write any number into
/// another field.** Use such a field only if a layer in front has checked it.
///
/// A number of 0 is free. A second quota can count the requests. A rejected upload is answered before its body is read;
/// with a [`DrainLayer`](crate::drain::DrainLayer) the client sees that response over HTTP/1.1, too:
///
/// ```
/// use axum::Router;
/// use axum::routing::{get, post};
/// use http::header::CONTENT_LENGTH;
/// use tower_sluice::cost::HeaderCost;
/// use tower_sluice::drain::DrainLayer;
/// use tower_sluice::quota::Unit;
/// use tower_sluice::{Cost, Global, MemoryBackend, Policy, Quota, RateLimitLayer};
///
/// let policy = Policy::new("requests", Quota::per_minute(60))
///     .and("bytes", Quota::per_minute(10_000_000).with_unit(Unit::ContentBytes));
/// let limit = RateLimitLayer::new(policy, Global, MemoryBackend::new());
/// let bytes = HeaderCost::new(CONTENT_LENGTH, 1_000_000);
/// let uploads = limit.clone().cost_fn(move |head| Cost::each([1, bytes.cost_for(head)]));
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
    missing: u64,
    per: u64,
}

impl HeaderCost {
    /// Charges the number in the field `name`, and `missing` tokens for a request without exactly one number.
    #[must_use]
    pub const fn new(name: HeaderName, missing: u64) -> Self {
        let per = 1;
        Self { name, missing, per }
    }

    /// Sets how many units one token stands for; 1 by default. The cost is rounded up. The cost of a request without a
    /// number does not change.
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
    #[must_use]
    pub fn cost_for(&self, head: &Head<'_>) -> u64 {
        match number(head.headers, &self.name) {
            Some(units) => units.div_ceil(self.per),
            None => self.missing,
        }
    }
}

impl<B> CostOf<Request<B>> for HeaderCost {
    fn cost(&self, request: &Request<B>) -> Cost {
        Cost::new(self.cost_for(&Head::from(request)))
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
        assert_eq!(units(&kibi, "none"), MISSING);
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
    #[should_panic(expected = "0 units for a token: use at least 1")]
    fn zero_units_per_token_panics_at_setup() {
        let _ = UNITS.per(0);
    }
}
