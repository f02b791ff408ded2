//! Cancels a reservation, and retries earlier cancels that had no effect.
//!
//! A cancel refunds its charge only if no later charge exists. Otherwise the backend's [`BackendContext`] keeps the
//! reservation. After a cancel of the same key has refunded its charge, the kept ones are cancelled again. The newest
//! comes first, because each of them blocks the earlier ones. Each key has at most one such task at a time.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::backend::{Answer, Backend, BackendContext, CancelledReservation, TaskError};
use crate::decision::{Op, Reply, Reservation};
use crate::key::Key;
use crate::policy::Policy;

/// The most cancels of one key in one batch. Redis executes a batch in order.
const MOST_TOGETHER: usize = 64;

/// A task has a time limit, so it hands over to a new task after this time.
const LONGEST: Duration = Duration::from_secs(1);

/// Records when the reservation of this reply is due. Call it as soon as the reply arrives.
pub(crate) fn set_due(reply: &mut Reply, context: &BackendContext) {
    if let Some(reservation) = &mut reply.reservation {
        reservation.set_due(context.now().after(reply.wait));
    }
}

/// Cancels a reservation. If its charge was refunded, cancels the kept reservations of the key again: at once if the
/// backend answers at once, otherwise in the background.
pub(crate) async fn cancel<B: Backend>(
    backend: &B,
    policy: &Policy,
    key: &Key,
    reservation: Reservation,
) -> Result<bool, B::Error> {
    let fingerprint = backend.context().fingerprint(policy, key);
    let returned = backend.context().unreturned().returned(fingerprint);
    let reply = match backend.ask(Op::Cancel(reservation), policy, key) {
        Answer::Now(reply) => reply?,
        Answer::Later(reply) => reply.await?,
    };
    Ok(cancelled(backend, policy, key, returned, reply))
}

/// Cancels a reservation within a background task, which waits for a slot.
pub(crate) async fn cancel_alone<B: Backend>(
    backend: &B,
    policy: &Policy,
    key: &Key,
    reservation: Reservation,
) -> Result<bool, B::Error> {
    let fingerprint = backend.context().fingerprint(policy, key);
    let returned = backend.context().unreturned().returned(fingerprint);
    let reply = match backend.ask(Op::Cancel(reservation), policy, key) {
        Answer::Now(reply) => reply?,
        Answer::Later(reply) => {
            hand_over().await;
            let _slot = backend.context().background().acquire_slot().await;
            reply.await?
        }
    };
    Ok(cancelled(backend, policy, key, returned, reply))
}

/// Cancels a reservation that is no longer needed: at once if the backend answers at once, otherwise in the background.
pub(crate) fn in_background<B: Backend>(
    backend: &B,
    policy: &Policy,
    key: &Key,
    reservation: Reservation,
) {
    let (of, policy, key) = (backend.clone(), policy.clone(), key.clone());
    let task = async move {
        let cancelled = cancel_alone(&of, &policy, &key, reservation).await;
        cancelled.map_err(TaskError::from_error).map(drop)
    };
    start(backend, Box::pin(task));
}

/// Handles the answer to a cancel and returns whether the charge was refunded. `returned` is the number of refunded
/// cancels before the backend was asked.
fn cancelled<B: Backend>(
    backend: &B,
    policy: &Policy,
    key: &Key,
    returned: u64,
    reply: Reply,
) -> bool {
    let context = backend.context();
    let fingerprint = context.fingerprint(policy, key);
    let unreturned = context.unreturned();
    if reply.returned {
        unreturned.note_returned(fingerprint);
    } else if let Some(reservation) = reply.reservation {
        unreturned.keep(fingerprint, policy, reservation, context.now());
    }
    // A retry is also needed if another cancel was refunded meanwhile: it may not have seen this reservation.
    if unreturned.returned(fingerprint) != returned {
        start(backend, retry(backend.clone(), policy.clone(), key.clone()));
    }
    reply.returned
}

type CancelTask = Pin<Box<dyn Future<Output = Result<(), TaskError>> + Send>>;

/// Cancels the kept reservations of a key again, as long as one of them is refunded.
fn retry<B: Backend>(backend: B, policy: Policy, key: Key) -> CancelTask {
    Box::pin(async move {
        let context = backend.context();
        let (unreturned, fingerprint) = (context.unreturned(), context.fingerprint(&policy, &key));
        let Some(mut retry_of_key) = unreturned.retry(fingerprint) else {
            return Ok(());
        };
        let (began, mut most, mut longest) = (Instant::now(), 1, MOST_TOGETHER);
        loop {
            let returned = unreturned.returned(fingerprint);
            let newest = retry_of_key.newest(most, context.now());
            let count = newest.len();
            let (mut went_back, mut failed) = (0, None);
            for (policy, answer) in all(&backend, &key, newest).await {
                match answer {
                    Ok(reply) if reply.returned => {
                        went_back += 1;
                        unreturned.note_returned(fingerprint);
                    }
                    Ok(reply) => {
                        if let Some(reservation) = reply.reservation {
                            unreturned.keep(fingerprint, &policy, reservation, context.now());
                        }
                    }
                    // It is unknown whether its charge was refunded.
                    Err(error) => failed = Some(TaskError::from_error(error)),
                }
            }
            if let Some(error) = failed {
                return Err(error);
            }
            if went_back == 0 && retry_of_key.end(returned) {
                return Ok(());
            }
            if went_back < count {
                // The batch was not executed in order, or no more can be refunded.
                longest = 1;
            }
            most = (2 * most).min(longest);
            if began.elapsed() > LONGEST {
                drop(retry_of_key);
                start(
                    &backend,
                    retry(backend.clone(), policy.clone(), key.clone()),
                );
                return Ok(());
            }
        }
    })
}

/// Cancels all of them. The backend gets them in this order and at the same time.
async fn all<B: Backend>(
    backend: &B,
    key: &Key,
    cancelled: Vec<CancelledReservation>,
) -> Vec<(Policy, Result<Reply, B::Error>)> {
    let mut answers = Vec::with_capacity(cancelled.len());
    let mut later = Vec::new();
    for CancelledReservation {
        policy,
        reservation,
        ..
    } in cancelled
    {
        match backend.ask(Op::Cancel(reservation), &policy, key) {
            Answer::Now(reply) => answers.push((policy, reply)),
            Answer::Later(reply) => later.push((Some(policy), Box::pin(reply))),
        }
    }
    if later.is_empty() {
        return answers;
    }
    hand_over().await;
    let _slot = backend.context().background().acquire_slot().await;
    poll_fn(|cx| {
        for (policy, reply) in &mut later {
            if policy.is_some()
                && let Poll::Ready(reply) = reply.as_mut().poll(cx)
            {
                answers.extend(policy.take().map(|policy| (policy, reply)));
            }
        }
        match later.iter().any(|(policy, _)| policy.is_some()) {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    })
    .await;
    answers
}

/// Polls a task once. A task that does not complete continues in the background.
fn start<B: Backend>(backend: &B, mut task: CancelTask) {
    let background = backend.context().background();
    match task.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(())) => {}
        Poll::Ready(Err(error)) => drop(background.record_failure(error)),
        Poll::Pending => Arc::clone(background).spawn_unbounded(task),
    }
}

/// Yields once before the first poll of a remote answer. That poll needs a runtime, and [`start`] may run without one.
async fn hand_over() {
    let mut is_first = true;
    let hand_over = poll_fn(|cx| {
        if std::mem::take(&mut is_first) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    });
    pin!(hand_over).await;
}
