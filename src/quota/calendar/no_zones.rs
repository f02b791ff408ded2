use std::fmt;

use super::Window;

/// A calendar needs the feature `calendar`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Calendar {}

impl Calendar {
    pub(crate) fn window_of(self, _: i64) -> Window {
        match self {}
    }

    pub(crate) fn other_window_of(self, _: i64) -> Window {
        match self {}
    }
}

impl fmt::Display for Calendar {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}
