//! Locks and atomics of the parts that `tests/model` checks. Under `--cfg sluice_model` they are those of shuttle,
//! which chooses the order of events.

#[cfg(not(sluice_model))]
pub(crate) use parking_lot::{Mutex, MutexGuard};
#[cfg(not(sluice_model))]
pub(crate) use std::sync::atomic::{AtomicU64, AtomicUsize, fence};

#[cfg(sluice_model)]
pub(crate) use self::modelled::{AtomicU64, AtomicUsize, Mutex, MutexGuard, fence};

#[cfg(sluice_model)]
mod modelled {
    pub(crate) use shuttle::sync::MutexGuard;
    pub(crate) use shuttle::sync::atomic::{AtomicU64, AtomicUsize, fence};

    /// Shuttle's lock with the interface of `parking_lot`.
    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner())
        }
    }
}
