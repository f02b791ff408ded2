/// How a decision of a [`RedisBackend`](super::RedisBackend) is made atomic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Atomicity {
    /// A Lua script decides and writes, in one round trip. This is the default.
    #[default]
    Script,
    /// `WATCH`, `MULTI` and `EXEC`, for servers that forbid scripts.
    ///
    /// An attempt takes two round trips and a connection of its own. It fails if another client changes the key in
    /// between, and is repeated up to 12 times. It becomes slower with each client that uses the same key.
    ///
    /// This mode cannot keep sliding logs or permits. It needs a URL or a
    /// [`Connector`](super::transport::Connector).
    Optimistic,
}
