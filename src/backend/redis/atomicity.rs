/// How a decision is made in one piece.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Atomicity {
    /// By a Lua script, one trip: the default.
    #[default]
    Script,
    /// By WATCH, MULTI and EXEC, at least two trips, repeated while others change the key, 12 times at most: for
    /// servers that forbid scripts. Slow, and slower the more ask for one key. It cannot keep sliding logs, and it
    /// needs connections of its own: those of a URL or a pool.
    Optimistic,
}
