//! The serde form of a calendar window.

use serde::{Deserialize, Serialize};

use super::super::{CalendarWindow, Quota, QuotaError, Unit};
use super::Every;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct CalendarForm {
    limit: u64,
    every: PeriodForm,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weekday: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    month: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    day: Option<u8>,
    zone: String,
    #[serde(default, skip_serializing_if = "Unit::is_default")]
    pub(in super::super) unit: Unit,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PeriodForm {
    Day,
    Week,
    Month,
    Quarter,
    Year,
}

impl PeriodForm {
    const fn name(self) -> &'static str {
        match self {
            Self::Day => "calendar day",
            Self::Week => "calendar week",
            Self::Month => "calendar month",
            Self::Quarter => "calendar quarter",
            Self::Year => "calendar year",
        }
    }
}

impl CalendarForm {
    pub(in super::super) fn new(window: CalendarWindow, unit: Unit) -> Self {
        let mut form = Self {
            limit: window.limit,
            every: PeriodForm::Day,
            weekday: None,
            month: None,
            day: None,
            zone: window.calendar.zone().to_owned(),
            unit,
        };
        match window.calendar.every() {
            Every::Day => {}
            Every::Week { weekday } => {
                (form.every, form.weekday) = (PeriodForm::Week, Some(weekday));
            }
            Every::Month { day } => (form.every, form.day) = (PeriodForm::Month, Some(day)),
            Every::Quarter { day } => (form.every, form.day) = (PeriodForm::Quarter, Some(day)),
            Every::Year { month, day } => {
                (form.every, form.month, form.day) = (PeriodForm::Year, Some(month), Some(day));
            }
        }
        form
    }

    pub(in super::super) fn quota(&self) -> Result<Quota, QuotaError> {
        let (weekday, month, day) = (
            self.weekday.unwrap_or(1),
            self.month.unwrap_or(1),
            self.day.unwrap_or(1),
        );
        let (every, [has_weekday, has_month, has_day]) = match self.every {
            PeriodForm::Day => (Every::Day, [false, false, false]),
            PeriodForm::Week => (Every::Week { weekday }, [true, false, false]),
            PeriodForm::Month => (Every::Month { day }, [false, false, true]),
            PeriodForm::Quarter => (Every::Quarter { day }, [false, false, true]),
            PeriodForm::Year => (Every::Year { month, day }, [false, true, true]),
        };
        let wrong = [
            (self.weekday.is_some() && !has_weekday, "weekday", "a week"),
            (self.month.is_some() && !has_month, "month", "a year"),
            (
                self.day.is_some() && !has_day,
                "day",
                "a month, a quarter or a year",
            ),
        ];
        if let Some((_, setting, of)) = wrong.into_iter().find(|(is_wrong, ..)| *is_wrong) {
            return Err(QuotaError::NotASettingOf {
                setting,
                algorithm: self.every.name(),
                of,
            });
        }
        Quota::try_calendar_window(self.limit, every, &self.zone)
    }
}
