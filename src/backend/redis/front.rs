//! What surrounds a trip, whoever makes it: names of keys, refusals that are remembered, and where those wait who ask.

use super::super::Lobby;
use super::denials::{Denials, Ticket};
use super::name::Naming;
use super::quotas::Quotas;
use super::request::Request;
use super::trip::Outcome;
use crate::clock::{Timestamp, micros_up};
use crate::decision::{Op, Reply};
use crate::key::Key;
use crate::policy::Policy;
use crate::quota::Cost;

pub(super) struct Front {
    pub(super) naming: Naming,
    pub(super) denials: Option<Denials>,
    pub(super) lobby: Lobby,
}

/// What is done when the answer is there.
pub(super) struct Note {
    policy: Policy,
    /// The key, if something else is done to it than to check it or to reserve.
    changed: Option<Key>,
    question: Option<Question>,
}

/// A check or a reservation whose answer may be kept.
pub(super) struct Question {
    ticket: Ticket,
    cost: Cost,
    asked: Timestamp,
}

impl Front {
    /// The answer, if it is a refusal that is known; else what to remember of the question.
    pub(super) fn recall(
        &self,
        op: &Op,
        policy: &Policy,
        key: &Key,
    ) -> Result<Reply, Option<Question>> {
        let (cost, max_wait) = match op {
            Op::Check(cost) => (cost, None),
            // With a window, to reserve is to check.
            Op::Reserve { cost, max_wait } => {
                let reserves = Quotas::of(policy).of_buckets;
                (cost, reserves.then(|| micros_up(*max_wait)))
            }
            _ => return Err(None),
        };
        let Some(denials) = &self.denials else {
            return Err(None);
        };
        let asked = self.lobby.now();
        let keep = |ticket| {
            Some(Question {
                ticket,
                cost: cost.clone(),
                asked,
            })
        };
        denials
            .find(policy, key, cost, asked, max_wait)
            .map_err(keep)
    }

    pub(super) fn request(
        &self,
        op: Op,
        policy: &Policy,
        key: &Key,
        question: Option<Question>,
    ) -> (Request, Note) {
        let changes = !matches!(op, Op::Check(_) | Op::Reserve { .. });
        let note = Note {
            policy: policy.clone(),
            changed: (changes && self.denials.is_some()).then(|| key.clone()),
            question,
        };
        let request = Request {
            name: self.naming.name(policy.name(), key),
            policy: policy.clone(),
            op,
        };
        (request, note)
    }

    /// Forgets what was known of a key that is changed: before the trip, and after it what was decided in between.
    pub(super) fn forget(&self, note: &Note) {
        if let (Some(denials), Some(key)) = (&self.denials, &note.changed) {
            denials.forget(&note.policy, key);
        }
    }

    /// Keeps a refusal.
    pub(super) fn learn(&self, note: &Note, outcome: &Outcome) {
        self.forget(note);
        if let (Some(denials), Some(question), Ok(reply)) = (&self.denials, &note.question, outcome)
        {
            denials.keep(
                question.ticket,
                &note.policy,
                &question.cost,
                question.asked,
                || self.lobby.now(),
                &reply.decision,
            );
        }
    }
}
