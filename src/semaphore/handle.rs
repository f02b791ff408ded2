use std::convert::Infallible;
use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::Permit;
use super::permit::{Asking, Giver, runtime};
use super::renewal;
use crate::backend::{Answer, Lease, PermitBackend, PermitLine, PermitPlace};
use crate::clock::Timestamp;
use crate::decision::{Decision, PermitOp, PermitReply, RetryAfter, Snapshot};
use crate::key::Key;
use crate::policy::Permits;
use crate::wait::MaxWait;

/// Bounds what is in flight at a time, for each key. Clones are cheap; semaphores of one backend and name share their permits.
///
/// # Cancel safety
///
/// A future that is dropped at any point leaves nothing behind: what it was given, or may have been given, is given back.
#[derive(Clone)]
pub struct Semaphore<B> {
    permits: Permits,
    backend: B,
    /// The same backend, for permits of any.
    giver: Arc<dyn Giver>,
}

/// Why there is no permit.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoPermit<E> {
    /// All are taken, or not enough are left, or none came free within the longest wait.
    Denied(Decision),
    /// The backend gave no answer. What it may have given is given back, or ends with its lease.
    Backend(E),
}

impl<B: PermitBackend> Semaphore<B> {
    /// A semaphore of `permits`, kept in `backend`.
    #[must_use]
    pub fn new(permits: Permits, backend: B) -> Self {
        Self {
            permits,
            giver: Arc::new(backend.clone()),
            backend,
        }
    }

    /// The same state by other permits: a tier, made beforehand and of the same name.
    #[must_use]
    pub fn with(&self, permits: &Permits) -> Self {
        Self {
            permits: permits.clone(),
            ..self.clone()
        }
    }

    /// What it is made of.
    #[must_use]
    pub const fn permits(&self) -> &Permits {
        &self.permits
    }

    /// The backend.
    #[must_use]
    pub const fn backend(&self) -> &B {
        &self.backend
    }

    /// A permit of `key` that counts for `weight`, if it is there now. It does not look at who waits. Weight 0 is always there,
    /// and counts for nothing.
    ///
    /// # Errors
    ///
    /// [`NoPermit::Denied`] if it is not there; [`NoPermit::Backend`] if there was no answer.
    pub async fn try_acquire(&self, key: &Key, weight: u32) -> Result<Permit, NoPermit<B::Error>> {
        let asked = self.backend.lobby().now();
        let mut asking = Asking::new(&self.backend, &self.permits, key);
        let id = asking.id();
        let reply = asking.ask(PermitOp::Acquire { id, weight }).await;
        let reply = reply.map_err(NoPermit::Backend)?;
        self.permit(asking, reply, weight, asked, Duration::ZERO)
    }

    /// The same for a waiter whose time is up.
    async fn try_late(
        &self,
        key: &Key,
        weight: u32,
        began: Timestamp,
    ) -> Result<Permit, NoPermit<B::Error>> {
        let asked = self.backend.lobby().now();
        let waited = Duration::from_micros(asked.micros_since(began));
        let mut asking = Asking::new(&self.backend, &self.permits, key);
        let id = asking.id();
        let reply = asking.ask(PermitOp::Acquire { id, weight }).await;
        let reply = reply.map_err(NoPermit::Backend)?;
        self.permit(asking, reply, weight, asked, waited)
    }

    /// As [`try_acquire`](Self::try_acquire) of these permits, if the backend answers there and then. Else nothing was asked.
    pub(crate) fn try_now(
        &self,
        permits: &Permits,
        key: &Key,
        weight: u32,
    ) -> Option<Result<Permit, NoPermit<B::Error>>> {
        let asked = self.backend.lobby().now();
        let mut asking = Asking::new(&self.backend, permits, key);
        let id = asking.id();
        let reply = asking.ask_now(PermitOp::Acquire { id, weight })?;
        let reply = reply.map_err(NoPermit::Backend);
        Some(reply.and_then(|reply| self.permit(asking, reply, weight, asked, Duration::ZERO)))
    }

    /// A permit of `key` that counts for `weight`, as soon as it is there, within `max_wait`. Waiters are served in order of
    /// arrival: a small one does not overtake a large one that needs more than is free. When its time is up, and before it is
    /// rejected, it gets a permit that the waiters in front cannot use.
    ///
    /// # Errors
    ///
    /// [`NoPermit::Denied`] if none came free in time, at once if `weight` is above the capacity, or if too many wait already
    /// ([`Lobby::max_waiters`](crate::backend::Lobby::max_waiters)) and it is not there now; [`NoPermit::Backend`] if there was
    /// no answer.
    pub async fn acquire(
        &self,
        key: &Key,
        weight: u32,
        max_wait: impl Into<MaxWait>,
    ) -> Result<Permit, NoPermit<B::Error>> {
        let max_wait = max_wait.into();
        // Nobody has to wait for nothing, nor can for what will never be there.
        let in_vain = weight == 0 || weight > self.permits.capacity();
        if max_wait == MaxWait::NONE || in_vain {
            return self.try_acquire(key, weight).await;
        }
        let lobby = self.backend.lobby();
        let Some(_counted) = lobby.enter_named(self.permits.name(), key) else {
            return self.try_acquire(key, weight).await;
        };
        let began = lobby.now();
        let deadline = match max_wait {
            MaxWait::Within(longest) => began.after(longest),
            MaxWait::Unbounded => Timestamp::MAX,
        };
        let place = lobby.permits().enter(&self.permits, key);
        self.wait(key, weight, &place, began, deadline).await
    }

    /// Looks at `key`, and changes nothing.
    ///
    /// # Errors
    ///
    /// If the backend gave no answer.
    pub async fn peek(&self, key: &Key) -> Result<Snapshot, B::Error> {
        let reply = match self.backend.ask(PermitOp::Peek, &self.permits, key) {
            Answer::Now(reply) => reply?,
            Answer::Later(reply) => reply.await?,
        };
        Ok(match reply.decision {
            Decision::Allow(snapshot) | Decision::Deny(snapshot, _) => snapshot,
        })
    }

    /// Stands in line, and at its head asks whenever it may pay.
    async fn wait(
        &self,
        key: &Key,
        weight: u32,
        place: &PermitPlace<'_>,
        began: Timestamp,
        deadline: Timestamp,
    ) -> Result<Permit, NoPermit<B::Error>> {
        let (lobby, line) = (self.backend.lobby(), &*place.line);
        let mut at_once = true;
        let Some(_head) = self.reach_head(line, deadline, &mut at_once).await else {
            let refusal = line.refusal.lock().clone();
            return match refusal {
                Some(decision) if decision.snapshot().remaining() < u64::from(weight) => {
                    Err(NoPermit::Denied(decision))
                }
                // The head needs more than is free, and this one no more than that. Or none of this line has been denied yet.
                _ => self.try_late(key, weight, began).await,
            };
        };
        let mut asking = Asking::new(&self.backend, &self.permits, key);
        let id = asking.id();
        loop {
            let asked = lobby.now();
            let waited = Duration::from_micros(asked.micros_since(began));
            let reply = asking.ask(PermitOp::Wait { id, weight, waited }).await;
            let reply = reply.map_err(NoPermit::Backend)?;
            let now = lobby.now();
            if reply.decision.is_allowed() {
                let waited = if at_once { 0 } else { now.micros_since(began) };
                let waited = Duration::from_micros(waited);
                return self.permit(asking, reply, weight, asked, waited);
            }
            if now >= deadline {
                if reply.in_front == 0 || reply.decision.snapshot().remaining() < u64::from(weight)
                {
                    return Err(NoPermit::Denied(reply.decision));
                }
                // A waiter of another process stands in front and needs more than is free, and this one no more than that.
                let reply = asking.ask(PermitOp::Acquire { id, weight }).await;
                let reply = reply.map_err(NoPermit::Backend)?;
                let waited = Duration::from_micros(now.micros_since(began));
                return self.permit(asking, reply, weight, now, waited);
            }
            at_once = false;
            *line.refusal.lock() = Some(reply.decision.clone());
            self.pause(line, &reply, now, deadline).await;
        }
    }

    /// Until it may pay to ask again.
    async fn pause(
        &self,
        line: &PermitLine,
        reply: &PermitReply,
        now: Timestamp,
        deadline: Timestamp,
    ) {
        let standing = line.standing();
        let look = self.backend.next_look(&self.permits, reply, standing);
        let look = look.map_or(deadline, |look| now.after(look).min(deadline));
        let mut sleep = self.backend.lobby().sleep_until(look);
        let mut released = pin!(line.released.notified());
        // Of what is released here nothing is left for this one, if somebody in another process stands in front.
        let listens = reply.in_front == 0;
        poll_fn(|cx| {
            if listens && released.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            sleep.as_mut().poll(cx)
        })
        .await;
    }

    /// The right to ask, once everybody in front has gone; none if that is too late.
    async fn reach_head<'l>(
        &self,
        line: &'l PermitLine,
        deadline: Timestamp,
        at_once: &mut bool,
    ) -> Option<tokio::sync::MutexGuard<'l, ()>> {
        if let Ok(head) = line.head.try_lock() {
            return Some(head);
        }
        *at_once = false;
        let mut head = pin!(line.head.lock());
        let mut end = self.backend.lobby().sleep_until(deadline);
        poll_fn(|cx| match head.as_mut().poll(cx) {
            Poll::Ready(head) => Poll::Ready(Some(head)),
            Poll::Pending => Pin::new(&mut end).poll(cx).map(|()| None),
        })
        .await
    }

    /// What was given, with its guard.
    fn permit(
        &self,
        asking: Asking<'_, B>,
        reply: PermitReply,
        weight: u32,
        asked: Timestamp,
        waited: Duration,
    ) -> Result<Permit, NoPermit<B::Error>> {
        if !reply.decision.is_allowed() {
            return Err(NoPermit::Denied(reply.decision));
        }
        let leased = self.backend.has_leases() && weight > 0;
        let at = if self.backend.has_leases() {
            runtime(None)
        } else {
            None
        };
        let lease = Lease::new(
            asking.id(),
            weight,
            asking.permits(),
            asking.key(),
            at,
            asking.may_arrive_late(),
        );
        if leased {
            renewal::keep(&self.backend, &lease, asked);
        }
        asking.done();
        let giver = Arc::clone(&self.giver);
        Ok(Permit::new(lease, giver, reply.decision, waited))
    }
}

impl<B: fmt::Debug> fmt::Debug for Semaphore<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore")
            .field("permits", &self.permits)
            .field("backend", &self.backend)
            .finish()
    }
}

impl<E> NoPermit<E> {
    /// When enough leases will have ended by themselves, if permits were refused: a hint, for releases come sooner and
    /// renewals later.
    #[must_use]
    pub const fn retry_after(&self) -> Option<RetryAfter> {
        match self {
            Self::Denied(decision) => decision.retry_after(),
            Self::Backend(_) => None,
        }
    }
}

impl NoPermit<Infallible> {
    /// The same of a backend that can fail.
    pub(crate) fn of_infallible<E>(self) -> NoPermit<E> {
        match self {
            Self::Denied(decision) => NoPermit::Denied(decision),
            Self::Backend(never) => match never {},
        }
    }
}

impl<E: fmt::Display> fmt::Display for NoPermit<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(decision) => {
                let snapshot = decision.snapshot();
                let (limit, remaining) = (snapshot.limit(), snapshot.remaining());
                match decision.retry_after() {
                    Some(RetryAfter::Never) => {
                        write!(
                            f,
                            "the weight is above the capacity of {limit}, no wait helps"
                        )
                    }
                    _ => write!(f, "not enough permits are free: {remaining} of {limit}"),
                }
            }
            Self::Backend(error) => error.fmt(f),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for NoPermit<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Denied(_) => None,
            // Shown in place of this one, so its causes are ours.
            Self::Backend(error) => error.source(),
        }
    }
}
