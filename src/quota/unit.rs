/// What a token stands for, as clients are told (`qu` in the `RateLimit-Policy` field).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unit {
    /// Requests, or an abstract cost of them.
    #[default]
    Requests,
    /// Bytes of content.
    ContentBytes,
}
