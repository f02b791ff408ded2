use std::convert::Infallible;
use std::time::Duration;

use super::{MemoryBackend, MemorySemaphore};
use crate::backend::{
    Answer, Backend, BackendContext, BlockingBackend, BlockingPermitBackend, PermitBackend,
};
use crate::clock::Clock;
use crate::decision::{Op, PermitId, PermitOp, PermitReply, Reply};
use crate::key::Key;
use crate::policy::{Policy, SemaphorePolicy};

impl<C: Clock> BlockingBackend for MemoryBackend<C> {
    type Error = Infallible;

    #[inline]
    fn ask(&self, op: Op, policy: &Policy, key: &Key) -> Result<Reply, Infallible> {
        Ok(self.decide(op, policy, key))
    }

    fn context(&self) -> &BackendContext {
        Backend::context(self)
    }
}

// Both types answer at once, so that a call never blocks.
macro_rules! blocking_permit_backend {
    ($($backend:ident)*) => {$(
        impl<C: Clock> BlockingPermitBackend for $backend<C> {
            type Error = Infallible;

            fn ask(&self, op: PermitOp, policy: &SemaphorePolicy, key: &Key) -> Result<PermitReply, Infallible> {
                match PermitBackend::ask(self, op, policy, key) {
                    Answer::Now(reply) => reply,
                    Answer::Later(reply) => reply.into_inner(),
                }
            }

            fn context(&self) -> &BackendContext {
                PermitBackend::context(self)
            }

            fn has_leases(&self) -> bool {
                PermitBackend::has_leases(self)
            }

            fn next_attempt(
                &self,
                policy: &SemaphorePolicy,
                reply: &PermitReply,
                waiters: usize,
            ) -> Option<Duration> {
                PermitBackend::next_attempt(self, policy, reply, waiters)
            }

            fn new_id(&self) -> PermitId {
                PermitBackend::new_id(self)
            }
        }
    )*};
}

blocking_permit_backend! { MemorySemaphore MemoryBackend }
