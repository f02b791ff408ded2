//! Cancelling a reservation, and those in front of it whose cancel came too early.
//!
//! A cancel returns its charge only if nothing was charged behind it. One that came too early is kept by the backend's [`Lobby`],
//! and tried again as soon as a cancel of the same key has returned its charge: the newest first, as each stands behind the
//! next one. One task at a time does that for a key.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::backend::{Answer, Backend, Fault, Lobby, Unspent};
use crate::decision::{Op, Reply, Turn};
use crate::key::Key;
use crate::policy::Policy;

/// The most cancels of one key that are asked for at a time. A batch of Redis does them in their order.
const MOST_TOGETHER: usize = 64;

/// A background task with a time limit of its own ends after so long, and another one goes on.
const LONGEST: Duration = Duration::from_secs(1);

/// Notes when the reservation of this reply is due; the reply has just come.
pub(crate) fn set_due(reply: &mut Reply, lobby: &Lobby) {
    if let Some(turn) = &mut reply.turn {
        turn.set_due(lobby.now().after(reply.go_after));
    }
}

/// Cancels a reservation and, if its charge went back, those that were kept in front of it: at once if the backend answers at once,
/// and else in the background.
pub(crate) async fn cancel<B: Backend>(
    backend: &B,
    policy: &Policy,
    key: &Key,
    turn: Turn,
) -> Result<bool, B::Error> {
    let print = backend.lobby().print(policy, key);
    let returned = backend.lobby().unreturned().returned(print);
    let reply = match backend.ask(Op::Cancel(turn), policy, key) {
        Answer::Now(reply) => reply?,
        Answer::Later(reply) => reply.await?,
    };
    Ok(cancelled(backend, policy, key, returned, reply))
}

/// The same in a background task, which waits until the backend may be asked.
pub(crate) async fn cancel_alone<B: Backend>(
    backend: &B,
    policy: &Policy,
    key: &Key,
    turn: Turn,
) -> Result<bool, B::Error> {
    let print = backend.lobby().print(policy, key);
    let returned = backend.lobby().unreturned().returned(print);
    let reply = match backend.ask(Op::Cancel(turn), policy, key) {
        Answer::Now(reply) => reply?,
        Answer::Later(reply) => {
            hand_over().await;
            let _pace = backend.lobby().errand_runner().in_turn().await;
            reply.await?
        }
    };
    Ok(cancelled(backend, policy, key, returned, reply))
}

/// Cancels a reservation that was given up: at once if the backend answers at once, and else in the background.
pub(crate) fn in_background<B: Backend>(backend: &B, policy: &Policy, key: &Key, turn: Turn) {
    let (of, policy, key) = (backend.clone(), policy.clone(), key.clone());
    let task = async move {
        let cancelled = cancel_alone(&of, &policy, &key, turn).await;
        cancelled.map_err(Fault::of).map(drop)
    };
    start(backend, Box::pin(task));
}

/// What comes after the answer to a cancel: whether the charge went back. `returned` is the count of cancels that had returned
/// theirs before it was asked for.
fn cancelled<B: Backend>(
    backend: &B,
    policy: &Policy,
    key: &Key,
    returned: u64,
    reply: Reply,
) -> bool {
    let lobby = backend.lobby();
    let print = lobby.print(policy, key);
    let unreturned = lobby.unreturned();
    if reply.returned {
        unreturned.note_returned(print);
    } else if let Some(turn) = reply.turn {
        unreturned.keep(print, policy, turn, lobby.now());
    }
    // Also if another cancel has returned its charge meanwhile: it may not have seen this one among those that are kept.
    if unreturned.returned(print) != returned {
        start(backend, retry(backend.clone(), policy.clone(), key.clone()));
    }
    reply.returned
}

type Task = Pin<Box<dyn Future<Output = Result<(), Fault>> + Send>>;

/// Cancels those again that are kept of a key, as long as one returns its charge.
fn retry<B: Backend>(backend: B, policy: Policy, key: Key) -> Task {
    Box::pin(async move {
        let lobby = backend.lobby();
        let (unreturned, print) = (lobby.unreturned(), lobby.print(&policy, &key));
        let Some(mut retry_of_key) = unreturned.retry(print) else {
            return Ok(());
        };
        let (began, mut most, mut longest) = (Instant::now(), 1, MOST_TOGETHER);
        loop {
            let returned = unreturned.returned(print);
            let newest = retry_of_key.newest(most, lobby.now());
            let count = newest.len();
            let (mut went_back, mut failed) = (0, None);
            for (policy, answer) in all(&backend, &key, newest).await {
                match answer {
                    Ok(reply) if reply.returned => {
                        went_back += 1;
                        unreturned.note_returned(print);
                    }
                    Ok(reply) => {
                        if let Some(turn) = reply.turn {
                            unreturned.keep(print, &policy, turn, lobby.now());
                        }
                    }
                    // Nobody knows whether its charge went back.
                    Err(error) => failed = Some(Fault::of(error)),
                }
            }
            if let Some(fault) = failed {
                return Err(fault);
            }
            if went_back == 0 && retry_of_key.end(returned) {
                return Ok(());
            }
            if went_back < count {
                // They were not done in their order, or there is no more to be done.
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

/// Cancels all of them, asked for in this order and at one time.
async fn all<B: Backend>(
    backend: &B,
    key: &Key,
    unspent: Vec<Unspent>,
) -> Vec<(Policy, Result<Reply, B::Error>)> {
    let mut answers = Vec::with_capacity(unspent.len());
    let mut later = Vec::new();
    for Unspent { policy, turn, .. } in unspent {
        match backend.ask(Op::Cancel(turn), &policy, key) {
            Answer::Now(reply) => answers.push((policy, reply)),
            Answer::Later(reply) => later.push((Some(policy), Box::pin(reply))),
        }
    }
    if later.is_empty() {
        return answers;
    }
    hand_over().await;
    let _pace = backend.lobby().errand_runner().in_turn().await;
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

/// Does a task at once, if the backend answers at once; what is left of it goes on in the background.
fn start<B: Backend>(backend: &B, mut task: Task) {
    let errands = backend.lobby().errand_runner();
    match task.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(())) => {}
        Poll::Ready(Err(fault)) => drop(errands.note(fault)),
        Poll::Pending => Arc::clone(errands).give_back(task),
    }
}

/// Comes before the first poll of what a backend answers later: that needs a runtime, and [`start`] polls a task where there may be
/// none.
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
