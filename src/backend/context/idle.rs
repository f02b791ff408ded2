use std::fmt;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::BackendContext;

/// The pause between two checks.
const STEP: Duration = Duration::from_millis(5);
/// The checks in a row that must find no task. A connection may drop its response, which starts a task, shortly after
/// the server has ended.
const QUIET_CHECKS: u32 = 4;

/// The outcome of [`BackendContext::idle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the report shows what is lost if the process ends now"]
#[non_exhaustive]
pub struct IdleReport {
    /// Background tasks that have not ended: refunds, settlements, cancelled reservations, released permits.
    pub background_tasks: usize,
    /// Background tasks that have failed since the backend was made. Their charges stay, and their permits expire with
    /// their leases.
    pub failed_background_tasks: usize,
    /// Permits with a lease that are still held. If the process ends now, they expire with their leases.
    pub held_permits: usize,
}

impl IdleReport {
    /// Returns whether nothing is lost if the process ends now: no task runs, no task has failed, and no permit is
    /// held.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.background_tasks == 0 && self.failed_background_tasks == 0 && self.held_permits == 0
    }
}

impl fmt::Display for IdleReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (left, failed) = (self.background_tasks, self.failed_background_tasks);
        let held = self.held_permits;
        write!(
            f,
            "background tasks: {left} unfinished, {failed} failed; permits still held: {held}"
        )
    }
}

impl BackendContext {
    /// Waits until all background tasks have ended and no permit with a lease is held, for at most `limit`.
    ///
    /// Call it at the end of a process, after the server has stopped accepting requests. Tasks that still run when the
    /// runtime ends are lost.
    ///
    /// Background tasks are refunds, settlements, cancelled reservations and released permits. A task counts from the
    /// moment of the drop or call that starts it. The wait takes at least 20 ms, to include responses that are being
    /// dropped. A backend in memory has no background tasks, and its permits have no lease. The operations of a
    /// blocking backend end before their call returns.
    ///
    /// # Panics
    ///
    /// Panics if it is polled outside of a Tokio runtime with its timer enabled.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the wait. The tasks continue.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// use tower_sluice::RedisBackend;
    /// use tower_sluice::backend::Backend as _;
    ///
    /// # async fn f(app: axum::Router, listener: tokio::net::TcpListener) -> Result<(), Box<dyn std::error::Error>> {
    /// let redis = RedisBackend::connect("redis://127.0.0.1/").await?;
    /// // .. layers over `redis.clone()`
    /// let stop = async { drop(tokio::signal::ctrl_c().await) };
    /// axum::serve(listener, app).with_graceful_shutdown(stop).await?;
    /// let report = redis.context().idle(Duration::from_secs(5)).await;
    /// if !report.is_complete() {
    ///     eprintln!("{report}");
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn idle(&self, limit: Duration) -> IdleReport {
        // After a time-out the report shows what is left.
        let _ = timeout(limit, self.until_idle()).await;
        let stats = self.stats();
        IdleReport {
            background_tasks: stats.background_tasks,
            failed_background_tasks: stats.failed_background_tasks,
            held_permits: stats.held_permits,
        }
    }

    async fn until_idle(&self) {
        let (mut quiet, mut begun) = (0, self.background.begun());
        while quiet < QUIET_CHECKS {
            sleep(STEP).await;
            let is_quiet = self.background.running() == 0 && self.leases.held() == 0;
            let before = std::mem::replace(&mut begun, self.background.begun());
            quiet = if is_quiet && begun == before {
                quiet + 1
            } else {
                0
            };
        }
    }
}
