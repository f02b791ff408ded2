/// The unit of a token. Clients see it as `qu` in the `RateLimit-Policy` field
/// (draft-ietf-httpapi-ratelimit-headers-11).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unit {
    /// Requests, or an abstract cost of requests.
    #[default]
    Requests,
    /// Bytes of content.
    ContentBytes,
}
