use crate::backend::{Answer, Backend};
use crate::budget::BudgetedOp;
use crate::decision::{Op, Reply};
use crate::key::Key;
use crate::policy::Policy;

/// Asks a backend within the budget of a request, if it has one.
#[inline(always)] // a call would move the reply once more
pub(crate) fn ask<B: Backend>(
    backend: &B,
    op: Op,
    policy: &Policy,
    key: &Key,
    budget: Option<&BudgetedOp>,
) -> Answer<Result<Reply, B::Error>, B::Future> {
    match budget {
        None => backend.ask(op, policy, key),
        Some(budget) => backend.ask_within(op, policy, key, budget.limit()),
    }
}
