//! Renews the leases of permits in one task for each process and backend, as long as permits are held.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use smallvec::SmallVec;
use tokio::runtime::{self, Handle};
use tokio::sync::Notify;

use super::lease::Lease;
use super::leases::{Insertion, Leases, RenewalGroup, RenewalResult};
use crate::backend::{Answer, PermitBackend};
use crate::clock::Timestamp;
use crate::decision::PermitOp;

/// The most concurrent renewals. More would time out in the backend's queue and delay requests.
const MAX_RENEWALS: usize = 64;

type RenewalFuture = Pin<Box<dyn Future<Output = RenewalResult> + Send>>;

/// Renews a lease that was requested at `requested`, as long as it is held.
pub(super) fn keep<B: PermitBackend>(backend: &B, lease: &Arc<Lease>, requested: Timestamp) {
    let context = backend.context();
    let Insertion::NeedsTask(sooner) =
        Leases::in_context(context).insert(lease, requested, || context.now())
    else {
        return;
    };
    let runtime = super::release::runtime(lease.runtime.as_ref());
    let task = RenewalTask::new(backend.clone(), sooner, runtime.as_ref());
    match runtime {
        _ if backend.blocks() => on_a_thread(task),
        Some(runtime) => drop(runtime.spawn(task.run())),
        // Another runtime that holds permits may renew the lease. Otherwise the permit ends with it.
        None => drop(task),
    }
}

/// For a backend that blocks. If the thread cannot be started, permits end with their leases.
#[cfg(feature = "blocking")]
fn on_a_thread<B: PermitBackend>(task: RenewalTask<B>) {
    let thread = std::thread::Builder::new().name("permits".to_owned());
    drop(thread.spawn(move || crate::park::block_on(task.run())));
}

#[cfg(not(feature = "blocking"))]
fn on_a_thread<B: PermitBackend>(task: RenewalTask<B>) {
    drop(task);
}

/// The renewal task.
struct RenewalTask<B: PermitBackend> {
    backend: B,
    sooner: Arc<Notify>,
    runtime: Option<Handle>,
    /// Runtimes that had ended before the task could start on them.
    ended: SmallVec<[runtime::Id; 1]>,
}

impl<B: PermitBackend> RenewalTask<B> {
    fn new(backend: B, sooner: Arc<Notify>, runtime: Option<&Handle>) -> Self {
        Self {
            backend,
            sooner,
            runtime: runtime.cloned(),
            ended: SmallVec::new(),
        }
    }

    async fn run(mut self) {
        self.ended.clear();
        let mut renewals: Vec<RenewalFuture> = Vec::new();
        loop {
            let context = self.backend.context();
            let leases = Leases::in_context(context);
            let Some(next_attempt) = leases.next_attempt(&self.sooner) else {
                return;
            };
            let mut sleep = context.sleep_until(next_attempt);
            let mut sooner = std::pin::pin!(self.sooner.notified());
            poll_fn(|cx| {
                let before = renewals.len();
                renewals.retain_mut(|renewal| match renewal.as_mut().poll(cx) {
                    Poll::Ready(renewed) => {
                        leases.settle(&renewed);
                        false
                    }
                    Poll::Pending => true,
                });
                let woken = sleep.as_mut().poll(cx).is_ready()
                    || sooner.as_mut().poll(cx).is_ready()
                    || renewals.len() < before;
                if woken {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
            .await;
            leases.gather(context.now());
            while renewals.len() < MAX_RENEWALS {
                let now = context.now();
                let Some(group) = leases.take(now) else { break };
                renewals.push(Box::pin(renew(self.backend.clone(), group, now)));
            }
        }
    }
}

async fn renew<B: PermitBackend>(
    backend: B,
    group: RenewalGroup,
    asked_at: Timestamp,
) -> RenewalResult {
    let op = PermitOp::Renew(group.ids.clone());
    let reply = match backend.ask(op, &group.policy, &group.key) {
        Answer::Now(reply) => reply,
        Answer::Later(reply) => reply.await,
    };
    RenewalResult {
        group,
        asked_at,
        lasting: reply.ok().map(|reply| reply.lasting),
    }
}

impl<B: PermitBackend> Drop for RenewalTask<B> {
    fn drop(&mut self) {
        // The runtime ends. The task continues on the runtime of another lasting permit. Without one, the next acquire
        // starts a new task.
        let mut ended = std::mem::take(&mut self.ended);
        ended.extend(self.runtime.as_ref().map(Handle::id));
        let leases = Leases::in_context(self.backend.context());
        if let Some(other) = leases.pass_on(&self.sooner, &ended) {
            let sooner = Arc::clone(&self.sooner);
            let mut task = Self::new(self.backend.clone(), sooner, Some(&other));
            task.ended = ended;
            other.spawn(task.run());
        }
    }
}
