//! Tells operators of a server that is set up wrongly: each kind of fault once, and again after the server was healthy.

use std::error::Error;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bb8_redis::redis::{ErrorKind, RedisError};
use parking_lot::Mutex;

use super::super::misconfiguration::Misconfiguration;
use super::super::{BackendError, BackendErrorKind};
use crate::telemetry;

/// A fault that was not seen for this long is news.
const QUIET: Duration = Duration::from_secs(60);
/// The events of one kind: this many at once, and then one in [`QUIET`]. A memory that is full now and then is no
/// flood.
const BURST: u32 = 3;

/// The faults that were told.
#[derive(Debug, Default)]
pub(super) struct Alerts {
    /// A bit for each kind that was told and not seen healthy since.
    told: AtomicU16,
    kinds: Mutex<[Kind; Misconfiguration::COUNT]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Kind {
    seen: Option<Instant>,
    /// When all events that were sent are paid for, one in each [`QUIET`].
    paid: Option<Instant>,
}

const fn bit(fault: Misconfiguration) -> u16 {
    1 << fault as u16
}

/// Faults of some keys or commands: a write of another key, or by another command, says nothing about them.
const PARTIAL: u16 = bit(Misconfiguration::WrongType)
    | bit(Misconfiguration::ClusterNode)
    | bit(Misconfiguration::UnknownCommand);

impl Alerts {
    /// Sends an event if `error` is of a fault that is news.
    pub(super) fn failed(&self, error: &BackendError, is_shared: bool) {
        let Some(fault) = fault_of(error) else { return };
        // A connection to a cluster follows its nodes by itself.
        if is_shared && fault == Misconfiguration::ClusterNode {
            return;
        }
        if self.is_news(fault, Instant::now()) {
            // The error itself has the same cause and remedy in its words.
            let said = error.source().unwrap_or(error);
            telemetry::misconfigured(said, fault.cause(), fault.remedy());
        }
    }

    /// The server has done a write. Only that shows that it can: a denial writes nothing.
    #[inline]
    pub(super) fn wrote(&self) {
        if self.told.load(Relaxed) != 0 {
            self.told.fetch_and(PARTIAL, Relaxed);
        }
    }

    fn is_news(&self, fault: Misconfiguration, now: Instant) -> bool {
        let mut kinds = self.kinds.lock();
        let kind = &mut kinds[fault as usize];
        let before = kind.seen.replace(now);
        let is_old = before.is_some_and(|before| now.saturating_duration_since(before) < QUIET);
        let is_told = self.told.fetch_or(bit(fault), Relaxed) & bit(fault) != 0;
        if is_told && is_old {
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

/// What an operator must put right.
fn fault_of(error: &BackendError) -> Option<Misconfiguration> {
    match error.kind() {
        BackendErrorKind::Corrupt => Some(Misconfiguration::WrongType),
        // The only one that a server causes.
        BackendErrorKind::Config(_) => Some(Misconfiguration::WordSize),
        BackendErrorKind::Server(code) if code == "ERR" => is_unknown_command(error),
        BackendErrorKind::Server(code) => Misconfiguration::of_code(code),
        BackendErrorKind::Unreachable => {
            let why = error.source()?.downcast_ref::<RedisError>()?;
            match why.kind() {
                ErrorKind::AuthenticationFailed => Some(Misconfiguration::Authentication),
                _ => Misconfiguration::of_code(why.code()?),
            }
        }
        _ => None,
    }
}

fn is_unknown_command(error: &BackendError) -> Option<Misconfiguration> {
    let told = error.source()?.to_string().to_ascii_lowercase();
    let is_unknown = told.contains("unknown command");
    is_unknown.then_some(Misconfiguration::UnknownCommand)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_news_once_and_again_after_a_write() {
        let (alerts, now) = (Alerts::default(), Instant::now());
        let is_news = |fault| alerts.is_news(fault, now);
        assert!(is_news(Misconfiguration::Memory));
        assert!(!is_news(Misconfiguration::Memory));
        assert!(is_news(Misconfiguration::Permission));
        alerts.wrote();
        assert!(is_news(Misconfiguration::Memory));
        assert!(!is_news(Misconfiguration::Memory));
    }

    #[test]
    fn a_write_of_another_key_or_command_does_not_make_a_partial_fault_news() {
        use Misconfiguration::{ClusterNode, UnknownCommand, WrongType};
        for fault in [WrongType, ClusterNode, UnknownCommand] {
            let (alerts, now) = (Alerts::default(), Instant::now());
            assert!(alerts.is_news(fault, now));
            alerts.wrote();
            assert!(!alerts.is_news(fault, now + QUIET / 2));
            assert!(!alerts.is_news(fault, now + QUIET));
            assert!(alerts.is_news(fault, now + 2 * QUIET));
        }
    }

    #[test]
    fn a_32_bit_server_is_a_fault() {
        let error = super::super::error::from_text("WORDSIZE 32");
        assert_eq!(fault_of(&error), Some(Misconfiguration::WordSize));
    }

    #[test]
    fn a_denied_command_is_told_by_each_version_of_redis() {
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
    fn a_fault_that_comes_and_goes_is_told_once_a_minute_in_the_end() {
        let (alerts, start) = (Alerts::default(), Instant::now());
        let mut told = 0;
        for second in 0..600 {
            alerts.wrote();
            let now = start + Duration::from_secs(second);
            told += u32::from(alerts.is_news(Misconfiguration::Memory, now));
        }
        assert_eq!(told, BURST + 9);
    }
}
