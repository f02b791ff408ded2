//! The numbers of a quota as a request sends them. Those of a calendar window contain edges, which depend on the time.

use std::borrow::Cow;

use super::super::BackendError;
use super::error::calendar_time;
use super::packed_quotas::PackedQuota;
use super::request::OpRequest;

impl OpRequest {
    /// Returns the numbers of a quota in the form that is sent.
    pub(super) fn numbers<'a>(&self, quota: &'a PackedQuota) -> Cow<'a, [u8]> {
        match (&quota.calendar, &self.time) {
            (Some(edges), Some(time)) => {
                Cow::Owned(edges.numbers(&quota.numbers, time.at_server()))
            }
            _ => Cow::Borrowed(&quota.numbers),
        }
    }

    /// Notes the time of the server if a script has answered that the edges are not around it.
    pub(super) fn note_time<T>(&self, outcome: &Result<T, BackendError>) {
        if let (Err(error), Some(time)) = (outcome, &self.time)
            && let Some(at) = calendar_time(error)
        {
            time.note_server(at);
        }
    }
}
