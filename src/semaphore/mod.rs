//! Bounds what is in flight at a time.

mod backend;
mod handle;
mod holders;
mod keeper;
mod line;
mod memory;
mod permit;
mod permits;
mod resilient;

pub use self::backend::{Backend, Op, PermitId, Reply};
pub use self::handle::{NoPermit, Semaphore};
pub(crate) use self::keeper::Keeper;
pub(crate) use self::line::Lines;
pub use self::memory::{MemorySemaphore, MemorySemaphoreBuilder};
pub use self::permit::{Lost, Permit, ReleaseError};
pub use self::permits::{Permits, PermitsError};
pub use self::resilient::Resilient;
