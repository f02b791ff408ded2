/// A window of a calendar in µs since the Unix epoch. The start belongs to it, the end does not.
///
/// The first window can start before the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) start: i64,
    pub(crate) end: i64,
}

impl Window {
    /// Returns its length in µs.
    pub(crate) const fn length(self) -> u64 {
        self.start.abs_diff(self.end)
    }

    /// Returns whether the window holds this time.
    #[cfg(feature = "calendar")]
    #[inline]
    pub(super) const fn holds(self, at: i64) -> bool {
        self.start <= at && at < self.end
    }
}
