use std::time::Duration;

/// The bounds of a drain, in bytes and in time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) max_bytes: u64,
    pub(super) time_limit: Duration,
}

impl Bounds {
    pub(super) fn allow_nothing(self) -> bool {
        self.max_bytes == 0 || self.time_limit.is_zero()
    }
}
