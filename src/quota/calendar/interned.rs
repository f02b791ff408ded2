use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};

use jiff::tz::TimeZone;
use parking_lot::Mutex;

use super::super::QuotaError;
use super::latest::LatestWindow;
use super::{Every, Window, ZoneText, zone};

/// The calendar of a quota: where its windows begin, in a time zone.
///
/// Equal calendars are one value that is never removed, so that a quota stays `Copy`, and so that all quotas with the
/// calendar share the window of now. There are at most about 440 for each time zone.
#[derive(Clone, Copy)]
pub(crate) struct Calendar(&'static Interned);

struct Interned {
    every: Every,
    name: Box<str>,
    zone: TimeZone,
    latest: LatestWindow,
}

/// The calendars in use, by the text of quota strings.
static CALENDARS: Mutex<BTreeMap<String, Calendar>> = Mutex::new(BTreeMap::new());

impl Calendar {
    /// Returns the calendar of a time zone.
    ///
    /// # Errors
    ///
    /// Returns an error if a number of `every` is out of range, or if the zone is unknown.
    pub(super) fn new(every: Every, zone: &str) -> Result<Self, QuotaError> {
        every.check()?;
        let unknown = || QuotaError::UnknownZone {
            zone: ZoneText::new(zone),
        };
        let zone = zone::named(zone).ok_or_else(unknown)?;
        let name = zone.iana_name().ok_or_else(unknown)?;
        let mut calendars = CALENDARS.lock();
        let known = calendars.entry(format!("{every} {name}"));
        let calendar = known.or_insert_with(|| {
            Self(Box::leak(Box::new(Interned {
                every,
                name: name.into(),
                zone: zone.clone(),
                latest: LatestWindow::default(),
            })))
        });
        Ok(*calendar)
    }

    #[cfg(any(test, feature = "serde"))]
    pub(crate) const fn every(self) -> Every {
        self.0.every
    }

    #[cfg(any(test, feature = "serde"))]
    pub(crate) const fn zone(self) -> &'static str {
        &self.0.name
    }

    /// Returns the window that holds `at` µs since the epoch.
    #[inline]
    pub(crate) fn window_of(self, at: i64) -> Window {
        match self.0.latest.holding(at) {
            Some(window) => window,
            None => self.compute(at),
        }
    }

    /// Returns the window that holds `at`, which is probably not the window of now.
    pub(crate) fn other_window_of(self, at: i64) -> Window {
        match self.0.latest.holding(at) {
            Some(window) => window,
            None => zone::window_of(self.0.every, &self.0.zone, at),
        }
    }

    #[cold]
    fn compute(self, at: i64) -> Window {
        let window = zone::window_of(self.0.every, &self.0.zone, at);
        self.0.latest.keep(window);
        window
    }
}

impl PartialEq for Calendar {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl Eq for Calendar {}

impl Hash for Calendar {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.0.every, &self.0.name).hash(state);
    }
}

impl fmt::Display for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0.every, self.0.name)
    }
}

impl fmt::Debug for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Calendar({self})")
    }
}
