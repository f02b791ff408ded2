//! Events for operators about a misconfigured server: one for each kind of fault, and another after a recovery.

use std::error::Error;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::super::misconfiguration::Misconfiguration;
use super::super::{BackendError, BackendErrorKind};
use super::transport::{TransportError, TransportErrorKind};
use crate::telemetry;

/// A fault that was not seen for this time is logged again.
const QUIET: Duration = Duration::from_secs(60);
/// The largest number of events of one kind at once. Later events are limited to one in each [`QUIET`], because a
/// memory that is full now and then would flood the log.
const BURST: u32 = 3;

/// The faults that were logged.
#[derive(Debug, Default)]
pub(super) struct Alerts {
    /// A bit for each kind that was logged and has not recovered.
    logged: AtomicU16,
    kinds: Mutex<[Kind; Misconfiguration::COUNT]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Kind {
    seen: Option<Instant>,
    /// The time at which all logged events are paid for, at one in each [`QUIET`].
    paid: Option<Instant>,
}

const fn bit(fault: Misconfiguration) -> u16 {
    1 << fault as u16
}

/// Faults of some keys or commands. A write to another key, or by another command, does not prove a recovery.
const PARTIAL: u16 = bit(Misconfiguration::WrongType)
    | bit(Misconfiguration::ClusterNode)
    | bit(Misconfiguration::UnknownCommand);

impl Alerts {
    /// Logs the fault behind `error`, unless it was logged before.
    pub(super) fn failed(&self, error: &BackendError, is_shared: bool) {
        let Some(fault) = fault_of(error) else { return };
        // A connection to a cluster follows its nodes.
        if is_shared && fault == Misconfiguration::ClusterNode {
            return;
        }
        if self.is_due(fault, Instant::now()) {
            // The error itself repeats the cause and the remedy in its text.
            let cause = error.source().unwrap_or(error);
            telemetry::misconfigured(cause, fault.cause(), fault.remedy());
        }
    }

    /// Notes that the server has written. A denial writes nothing, so it does not prove that the server can write.
    #[inline]
    pub(super) fn wrote(&self) {
        if self.logged.load(Relaxed) != 0 {
            self.logged.fetch_and(PARTIAL, Relaxed);
        }
    }

    fn is_due(&self, fault: Misconfiguration, now: Instant) -> bool {
        let mut kinds = self.kinds.lock();
        let kind = &mut kinds[fault as usize];
        let before = kind.seen.replace(now);
        let is_old = before.is_some_and(|before| now.saturating_duration_since(before) < QUIET);
        let is_logged = self.logged.fetch_or(bit(fault), Relaxed) & bit(fault) != 0;
        if is_logged && is_old {
            return false;
        }
        let paid = kind.paid.map_or(now, |paid| paid.max(now)) + QUIET;
        let is_allowed = paid.saturating_duration_since(now) <= BURST * QUIET;
        if is_allowed {
            kind.paid = Some(paid);
        }
        is_allowed
    }
}

/// The fault behind an error that an operator must correct.
fn fault_of(error: &BackendError) -> Option<Misconfiguration> {
    match error.kind() {
        BackendErrorKind::Corrupt => Some(Misconfiguration::WrongType),
        // A server causes no other error of this kind.
        BackendErrorKind::Config(_) => Some(Misconfiguration::WordSize),
        BackendErrorKind::Server(code) if code == "ERR" => is_unknown_command(error),
        BackendErrorKind::Server(code) => Misconfiguration::of_code(code),
        BackendErrorKind::Unreachable => {
            let cause = error.source()?.downcast_ref::<TransportError>()?;
            match cause.kind() {
                TransportErrorKind::Authentication => Some(Misconfiguration::Authentication),
                _ => Misconfiguration::of_code(cause.code()?),
            }
        }
        _ => None,
    }
}

fn is_unknown_command(error: &BackendError) -> Option<Misconfiguration> {
    let text = error.source()?.to_string().to_ascii_lowercase();
    let is_unknown = text.contains("unknown command");
    is_unknown.then_some(Misconfiguration::UnknownCommand)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_is_logged_once_and_again_after_a_write() {
        let (alerts, now) = (Alerts::default(), Instant::now());
        let is_due = |fault| alerts.is_due(fault, now);
        assert!(is_due(Misconfiguration::Memory));
        assert!(!is_due(Misconfiguration::Memory));
        assert!(is_due(Misconfiguration::Permission));
        alerts.wrote();
        assert!(is_due(Misconfiguration::Memory));
        assert!(!is_due(Misconfiguration::Memory));
    }

    #[test]
    fn write_of_another_key_or_command_does_not_end_a_partial_fault() {
        use Misconfiguration::{ClusterNode, UnknownCommand, WrongType};
        for fault in [WrongType, ClusterNode, UnknownCommand] {
            let (alerts, now) = (Alerts::default(), Instant::now());
            assert!(alerts.is_due(fault, now));
            alerts.wrote();
            assert!(!alerts.is_due(fault, now + QUIET / 2));
            assert!(!alerts.is_due(fault, now + QUIET));
            assert!(alerts.is_due(fault, now + 2 * QUIET));
        }
    }

    #[test]
    fn server_of_32_bits_is_a_fault() {
        let error = super::super::error::from_text("WORDSIZE 32");
        assert_eq!(fault_of(&error), Some(Misconfiguration::WordSize));
    }

    #[test]
    fn denied_command_is_recognized_in_each_version_of_redis() {
        for text in [
            "NOPERM this user has no permissions to run the 'evalsha' command",
            "The user executing the script can't run this command or subcommand script: 1, on @user_script:5.",
            "ERR The user executing the script can't access at least one of the keys mentioned in the command arguments",
            "ERR ACL failure in script: User limiter has no permissions to run the 'set' command",
        ] {
            let error = super::super::error::from_text(text);
            let code = BackendErrorKind::Server("NOPERM".to_owned());
            assert_eq!(*error.kind(), code, "{text}");
            assert_eq!(fault_of(&error), Some(Misconfiguration::Permission));
        }
    }

    #[test]
    fn fault_that_comes_and_goes_is_logged_once_a_minute_in_the_end() {
        let (alerts, start) = (Alerts::default(), Instant::now());
        let mut logged = 0;
        for second in 0..600 {
            alerts.wrote();
            let now = start + Duration::from_secs(second);
            logged += u32::from(alerts.is_due(Misconfiguration::Memory, now));
        }
        assert_eq!(logged, BURST + 9);
    }
}
