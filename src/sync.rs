//! Locks and atomics of the parts that `tests/model` checks. Under `--cfg sluice_model` they are those of shuttle,
//! which chooses the order of events.

#[cfg(not(sluice_model))]
pub(crate) use parking_lot::{Mutex, MutexGuard};
#[cfg(not(sluice_model))]
pub(crate) use std::sync::atomic::AtomicUsize;

#[cfg(sluice_model)]
pub(crate) use self::modelled::{AtomicUsize, Mutex, MutexGuard};

#[cfg(sluice_model)]
mod modelled {
    pub(crate) use shuttle::sync::MutexGuard;
    pub(crate) use shuttle::sync::atomic::AtomicUsize;

    /// Shuttle's lock with the interface of `parking_lot`.
    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(shuttle::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner())
        }
    }
}
