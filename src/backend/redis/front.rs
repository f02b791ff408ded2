//! What surrounds a trip, whoever makes it: names of keys, refusals that are remembered, and where those wait who ask.

use super::super::Lobby;
use super::denials::{Denials, Ticket};
use super::name::Naming;
use super::request::Request;
use super::trip::Outcome;
use crate::clock::Timestamp;
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
    /// The key, if something else is done to it than to check it.
    changed: Option<Key>,
    question: Option<Question>,
}

/// A check whose answer may be kept.
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
        let (Some(denials), Op::Check(cost)) = (&self.denials, op) else {
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
        denials.find(policy, key, cost, asked).map_err(keep)
    }

    pub(super) fn request(
        &self,
        op: Op,
        policy: &Policy,
        key: &Key,
        question: Option<Question>,
    ) -> (Request, Note) {
        let changes = !matches!(op, Op::Check(_));
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
