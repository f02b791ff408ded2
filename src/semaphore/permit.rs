use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::backend::{Answer, Fault, Lease, Lobby, PermitBackend};
use crate::decision::{Decision, PermitId, PermitOp};
use crate::key::Key;
use crate::policy::Permits;
use crate::report;

/// The right to be in flight. It is given back once: when it is dropped, by whatever way (a return, a panic, a future that is
/// cancelled), or by [`release`](Self::release).
///
/// It may be moved anywhere, and lasts as long as it is kept: into a task, into the body of a response, beside a connection.
///
/// From a backend that is remote it is given back in the background, by the runtime that drops it or else by the one it was
/// acquired in. If neither is there any more, it ends with its lease.
#[must_use = "a permit that is dropped is given back at once"]
pub struct Permit {
    lease: Arc<Lease>,
    /// None: it has been released.
    giver: Option<Arc<dyn Giver>>,
    decision: Decision,
    waited: Duration,
}

impl Permit {
    pub(super) fn new(
        lease: Arc<Lease>,
        giver: Arc<dyn Giver>,
        decision: Decision,
        waited: Duration,
    ) -> Self {
        let permit = Self {
            lease,
            giver: Some(giver),
            decision,
            waited,
        };
        report::held(&permit);
        permit
    }

    /// What names it.
    #[must_use]
    pub fn id(&self) -> PermitId {
        self.lease.id
    }

    /// What it is one of.
    #[must_use]
    pub fn permits(&self) -> &Permits {
        &self.lease.permits
    }

    /// How many permits it counts for.
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.lease.weight
    }

    /// The numbers when it was given.
    #[must_use]
    pub const fn decision(&self) -> &Decision {
        &self.decision
    }

    /// How long it was waited for; zero if it was there at once.
    #[must_use]
    pub const fn waited(&self) -> Duration {
        self.waited
    }

    /// Whether its lease was lost: somebody else may be in its place. It looks at the time, too, and so is right also where nothing
    /// else had a turn for a whole lease.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        if let Some(giver) = &self.giver {
            giver.look_at(&self.lease);
        }
        self.lease.is_lost()
    }

    /// Completes when its lease was lost; never, while it lasts or after it was given back. It lives by itself. What tells it is the
    /// task that renews.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub fn lost(&self) -> Lost {
        let lease = Arc::clone(&self.lease);
        Lost(Box::pin(async move { lease.lost().await }))
    }

    /// Gives it back, and tells whether it still lasted: `false` if its lease was over, or if a first answer was lost on the way and
    /// it had been given back already.
    ///
    /// # Errors
    ///
    /// If the backend gave no answer. It is not asked again: if it has not released the permit, that ends with its lease.
    ///
    /// # Cancel safety
    ///
    /// It is given back by the first poll, or by the drop. Whoever waits for the answer may stop waiting.
    pub async fn release(mut self) -> Result<bool, ReleaseError> {
        let Some(giver) = self.giver.take() else {
            return Ok(false);
        };
        report::given_back(&self.lease.permits, self.lease.weight);
        match giver.give(&self.lease) {
            Given::Done(given) => given.map_err(ReleaseError),
            Given::UnderWay(answer) => match answer.await {
                Ok(given) => given.map_err(ReleaseError),
                Err(_) => Err(ReleaseError(Fault::Lost)),
            },
        }
    }
}

#[cfg(feature = "blocking")]
impl Permit {
    /// Gives it back from a plain thread, and tells whether it still lasted; see [`release`](Self::release).
    ///
    /// # Errors
    ///
    /// As [`release`](Self::release).
    pub fn release_blocking(self) -> Result<bool, ReleaseError> {
        crate::park::block_on(self.release())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(giver) = self.giver.take() {
            report::given_back(&self.lease.permits, self.lease.weight);
            drop(giver.give(&self.lease));
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("permits", &self.lease.permits)
            .field("weight", &self.weight())
            .field("is_lost", &self.is_lost())
            .finish_non_exhaustive()
    }
}

/// Completes when a lease was lost; see [`Permit::lost`].
#[must_use = "futures do nothing unless polled"]
pub struct Lost(Pin<Box<dyn Future<Output = ()> + Send + Sync>>);

impl Future for Lost {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lost(..)")
    }
}

/// Why it is not known whether a permit was given back. It ends with its lease.
#[derive(Debug)]
pub struct ReleaseError(Fault);

impl fmt::Display for ReleaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Fault::NoRuntime => f.write_str("there is no runtime to release the permit in"),
            Fault::Slow | Fault::Crowded => f.write_str("the release took too long"),
            Fault::Lost => f.write_str("the runtime ended before the permit was released"),
            Fault::Failed(error) => error.fmt(f),
        }
    }
}

impl Error for ReleaseError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0 {
            // Shown in place of this one, so its causes are ours.
            Fault::Failed(error) => error.source(),
            _ => None,
        }
    }
}

/// A backend, whichever its type.
pub(super) trait Giver: Send + Sync {
    /// Gives a permit back, in the background as soon as it takes time.
    fn give(&self, lease: &Lease) -> Given;

    /// Sees whether its lease is over.
    fn look_at(&self, lease: &Lease);
}

pub(super) enum Given {
    Done(Result<bool, Fault>),
    UnderWay(oneshot::Receiver<Result<bool, Fault>>),
}

impl<B: PermitBackend> Giver for B {
    fn look_at(&self, lease: &Lease) {
        if self.has_leases() {
            let lobby = self.lobby();
            lobby.leases().look_at(lease.id, || lobby.now());
        }
    }

    fn give(&self, lease: &Lease) -> Given {
        let lobby = self.lobby();
        // First: what is given back is not renewed.
        if self.has_leases() {
            lobby.leases().forget(lease.id);
        }
        if lease.weight == 0 {
            return Given::Done(Ok(false));
        }
        let Lease {
            id, permits, key, ..
        } = lease;
        let release = release(*id, lease.may_arrive_late);
        match self.ask(release, permits, key) {
            Answer::Now(reply) => {
                lobby.permits().released(permits, key);
                let given = reply.map_err(|error| lobby.lost(Fault::of(error)));
                Given::Done(given.map(|reply| reply.lasting.contains(&true)))
            }
            Answer::Later(reply) => {
                let backend = self.clone();
                let (permits, key) = (permits.clone(), key.clone());
                let release = async move {
                    // However many leave together, none is late because of the others.
                    let _turn = backend.lobby().errand_runner().in_turn().await;
                    let reply = reply.await;
                    backend.lobby().permits().released(&permits, &key);
                    Ok(reply.map_err(Fault::of)?.lasting.contains(&true))
                };
                match lobby.run_at(runtime(lease.runtime.as_ref()), release) {
                    Ok(answer) => Given::UnderWay(answer),
                    Err(fault) => Given::Done(Err(fault)),
                }
            }
        }
    }
}

/// The runtime of the caller, or else this one.
pub(super) fn runtime(other: Option<&Handle>) -> Option<Handle> {
    Handle::try_current().ok().or_else(|| other.cloned())
}

/// Whether a request with this answer, or a copy of it, may still arrive.
fn arrives_late<E>(reply: &Result<super::PermitReply, E>) -> bool {
    reply.as_ref().map_or(true, |reply| reply.is_repeated)
}

/// What gives a permit back.
const fn release(id: PermitId, may_arrive_late: bool) -> PermitOp {
    if may_arrive_late {
        PermitOp::Revoke(id)
    } else {
        PermitOp::Release(id)
    }
}

/// A permit that is asked for. Dropped before it is there, it is given back: the answer may still come.
pub(super) struct Asking<'a, B: PermitBackend> {
    backend: &'a B,
    permits: &'a Permits,
    key: &'a Key,
    id: PermitId,
    /// An answer under way.
    reply: Option<Pin<Box<B::Future>>>,
    /// Where it was asked for.
    runtime: Option<Handle>,
    /// Whether the backend may know of the id.
    is_known: bool,
    /// Whether a request may arrive later: its outcome is unknown, or it was sent more than once.
    may_arrive_late: bool,
    /// Whether it may stand among those who wait there.
    has_place: bool,
}

impl<'a, B: PermitBackend> Asking<'a, B> {
    pub(super) fn new(backend: &'a B, permits: &'a Permits, key: &'a Key) -> Self {
        Self {
            backend,
            permits,
            key,
            id: backend.new_id(),
            reply: None,
            runtime: None,
            is_known: false,
            may_arrive_late: false,
            has_place: false,
        }
    }

    pub(super) const fn may_arrive_late(&self) -> bool {
        self.may_arrive_late
    }

    pub(super) const fn id(&self) -> PermitId {
        self.id
    }

    pub(super) const fn permits(&self) -> &Permits {
        self.permits
    }

    pub(super) const fn key(&self) -> &Key {
        self.key
    }

    /// Asks `op`, which is of this id, and has the answer if it is there at once.
    pub(super) fn ask_now(&mut self, op: PermitOp) -> Option<Result<super::PermitReply, B::Error>> {
        self.has_place |= matches!(op, PermitOp::Wait { .. });
        match self.backend.ask(op, self.permits, self.key) {
            // There and then, so nobody can have gone meanwhile. Without an answer nothing was asked, unless by blocking.
            Answer::Now(reply) => {
                if self.backend.blocks() {
                    self.learn(&reply);
                }
                Some(reply)
            }
            Answer::Later(reply) => {
                self.reply = Some(Box::pin(reply));
                None
            }
        }
    }

    /// Notes what an answer to a request that was sent says of the id.
    fn learn(&mut self, reply: &Result<super::PermitReply, B::Error>) {
        self.may_arrive_late |= arrives_late(reply);
        let has_place = self.has_place;
        let may_stay = |reply: &super::PermitReply| reply.decision.is_allowed() || has_place;
        self.is_known = self.may_arrive_late || reply.as_ref().is_ok_and(may_stay);
    }

    /// Asks `op`, which is of this id.
    pub(super) async fn ask(&mut self, op: PermitOp) -> Result<super::PermitReply, B::Error> {
        if let Some(reply) = self.ask_now(op) {
            return reply;
        }
        let (is_known, runtime) = (&mut self.is_known, &mut self.runtime);
        let (under_way, may_arrive_late) = (&mut self.reply, &mut self.may_arrive_late);
        let reply = poll_fn(|cx| {
            // What was never polled has not been sent.
            *is_known = true;
            if runtime.is_none() {
                *runtime = self::runtime(None);
            }
            // Taken out: if this poll panics, the drop must not poll it again.
            let Some(mut reply) = under_way.take() else {
                return Poll::Pending;
            };
            let was_late = std::mem::replace(may_arrive_late, true);
            let polled = reply.as_mut().poll(cx);
            *may_arrive_late = was_late;
            if polled.is_pending() {
                *under_way = Some(reply);
            }
            polled
        })
        .await;
        self.learn(&reply);
        reply
    }

    /// It is there: from now on somebody else gives it back.
    pub(super) fn done(mut self) {
        self.is_known = false;
    }
}

impl<B: PermitBackend> Drop for Asking<'_, B> {
    fn drop(&mut self) {
        if !self.is_known {
            return;
        }
        let lobby: &Lobby = self.backend.lobby();
        let runtime = runtime(self.runtime.as_ref());
        let (id, may_arrive_late) = (self.id, self.may_arrive_late);
        let Some(reply) = self.reply.take() else {
            let release = release(id, may_arrive_late);
            match self.backend.ask(release, self.permits, self.key) {
                Answer::Now(Ok(_)) => lobby.permits().released(self.permits, self.key),
                Answer::Now(Err(error)) => drop(lobby.lost(Fault::of(error))),
                Answer::Later(done) => {
                    let backend = self.backend.clone();
                    let (permits, key) = (self.permits.clone(), self.key.clone());
                    let give_up = async move {
                        let _turn = backend.lobby().errand_runner().in_turn().await;
                        let done = done.await;
                        backend.lobby().permits().released(&permits, &key);
                        done.map_err(Fault::of).map(drop)
                    };
                    drop(lobby.run_at(runtime, give_up));
                }
            }
            return;
        };
        let (backend, permits, key) =
            (self.backend.clone(), self.permits.clone(), self.key.clone());
        let give_up = async move {
            // Without an answer the request may arrive after its release.
            let may_arrive_late = arrives_late(&reply.await) || may_arrive_late;
            let release = release(id, may_arrive_late);
            let _turn = backend.lobby().errand_runner().in_turn().await;
            let done = match backend.ask(release, &permits, &key) {
                Answer::Now(done) => done,
                Answer::Later(done) => done.await,
            };
            backend.lobby().permits().released(&permits, &key);
            done.map_err(Fault::of).map(drop)
        };
        drop(lobby.run_at(runtime, give_up));
    }
}
