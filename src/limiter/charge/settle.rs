use smallvec::SmallVec;

use super::settlement::Settlement;
use crate::backend::{Answer, Backend, BackendId, TaskError};
use crate::decision::{Decision, Op, Reply, Snapshot};
use crate::key::Key;
use crate::policy::Policy;

/// A backend of any type, as charges use it.
pub(crate) trait Settle: Send + Sync {
    /// Runs `ops` in sequence. The rest runs in the background once an operation does not complete at once.
    fn begin(&self, ops: SmallVec<[Op; 2]>, policy: &Policy, key: &Key) -> Settlement;
    fn backend_id(&self) -> BackendId;
}

impl<B: Backend> Settle for B {
    fn begin(&self, ops: SmallVec<[Op; 2]>, policy: &Policy, key: &Key) -> Settlement {
        let mut ops = ops.into_iter();
        let mut last = None;
        while let Some(op) = ops.next() {
            match self.ask(op, policy, key) {
                Answer::Now(Ok(reply)) => last = Some(snapshot(reply)),
                Answer::Now(Err(error)) => {
                    let error = self
                        .context()
                        .record_task_failure(TaskError::from_error(error));
                    return Settlement::failed(error.into());
                }
                Answer::Later(reply) => {
                    let (backend, policy, key) = (self.clone(), policy.clone(), key.clone());
                    let task = async move {
                        let mut last = snapshot(reply.await.map_err(TaskError::from_error)?);
                        for op in ops {
                            let reply = match backend.ask(op, &policy, &key) {
                                Answer::Now(reply) => reply,
                                Answer::Later(reply) => reply.await,
                            };
                            last = snapshot(reply.map_err(TaskError::from_error)?);
                        }
                        Ok(last)
                    };
                    return match self.context().spawn(task) {
                        Ok(outcome) => Settlement::running(outcome),
                        Err(error) => Settlement::failed(error.into()),
                    };
                }
            }
        }
        Settlement::done(last)
    }

    fn backend_id(&self) -> BackendId {
        self.context().id()
    }
}

fn snapshot(reply: Reply) -> Snapshot {
    match reply.decision {
        Decision::Allow(snapshot) | Decision::Deny(snapshot, _) => snapshot,
    }
}
