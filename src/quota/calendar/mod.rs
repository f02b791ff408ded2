//! Windows by a calendar: [`Every`] says where they begin, and [`Calendar`] computes their edges in a time zone.
//!
//! Time is an argument here. Without the feature `calendar` there is no time zone, and no value of [`Calendar`].

#[cfg(feature = "calendar")]
mod constructors;
#[cfg(feature = "calendar")]
mod days;
mod edges;
#[cfg(feature = "calendar")]
mod every;
#[cfg(all(feature = "calendar", feature = "serde"))]
mod form;
#[cfg(feature = "calendar")]
mod interned;
#[cfg(feature = "calendar")]
mod latest;
#[cfg(not(feature = "calendar"))]
mod no_zones;
#[cfg(feature = "calendar")]
mod parts;
#[cfg(all(test, feature = "calendar"))]
mod tests;
mod window;
#[cfg(feature = "calendar")]
mod zone;
mod zone_text;

#[cfg(feature = "redis")]
pub(crate) use self::edges::EDGES;
#[cfg(feature = "calendar")]
pub use self::every::Every;
#[cfg(all(feature = "calendar", feature = "serde"))]
pub(super) use self::form::CalendarForm;
#[cfg(feature = "calendar")]
pub(crate) use self::interned::Calendar;
#[cfg(not(feature = "calendar"))]
pub(crate) use self::no_zones::Calendar;
#[cfg(feature = "calendar")]
pub(super) use self::parts::repaired;
pub(crate) use self::window::Window;
pub use self::zone_text::ZoneText;
