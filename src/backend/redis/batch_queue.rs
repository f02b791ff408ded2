//! Batches of requests.
//!
//! If no round trip is in flight, a request is sent at once and alone. Requests that arrive meanwhile form a batch,
//! with a few batches in flight. If Redis is far away, a batch leaves every few milliseconds, so that no request waits
//! for a whole round trip before its own.

use std::collections::VecDeque;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};

use super::super::{BackendError, BackendErrorKind};
use super::detached_trip::DetachedTrip;
use super::request::ScriptRequest;
use super::round_trip::{RedisResult, ScriptClient};

/// The most requests of one EVALSHA. Redis serves no other client meanwhile.
const MOST_TOGETHER: usize = 64;
/// The round trips in flight. More of them would only be smaller.
const MOST_TRIPS: usize = 4;
/// The round trips in flight if none of them has ended for the time [`PACE`].
const MOST_FAR_TRIPS: usize = 256;
/// The longest time for which a request waits for a batch to fill.
const PACE: Duration = Duration::from_millis(2);

/// The requests that wait for a round trip through one client.
#[derive(Debug)]
pub(super) struct BatchQueue<R: ScriptRequest> {
    client: Arc<ScriptClient>,
    /// If this is `false`, every request has a round trip of its own.
    batching: bool,
    state: Mutex<QueueState<R>>,
    /// Wakes a batch sender whose batch may leave earlier.
    wake: Notify,
}

#[derive(Debug)]
struct QueueState<R: ScriptRequest> {
    /// The round trips in flight, and the batch sender that was spawned and has not run yet.
    trips: SmallVec<[RunningTrip; MOST_TRIPS]>,
    waiting: VecDeque<QueuedRequest<R>>,
    /// The time when a batch was last taken.
    left: Instant,
    /// The number of round trips so far.
    begun: u64,
}

#[derive(Debug)]
struct RunningTrip {
    number: u64,
    since: Instant,
    /// Whether its batch sender has not run yet.
    called: bool,
}

#[derive(Debug)]
struct QueuedRequest<R: ScriptRequest> {
    request: R,
    outcome: oneshot::Sender<RedisResult<R::Reply>>,
}

impl<R: ScriptRequest> QueueState<R> {
    fn begin(&mut self, called: bool) -> u64 {
        self.begun += 1;
        self.trips.push(RunningTrip {
            number: self.begun,
            since: Instant::now(),
            called,
        });
        self.begun
    }

    /// Returns whether the trip was still counted.
    fn end(&mut self, number: u64) -> bool {
        let found = self.trips.iter().position(|trip| trip.number == number);
        found.map(|index| self.trips.remove(index)).is_some()
    }

    fn is_called(&self) -> bool {
        self.trips.iter().any(|trip| trip.called)
    }
}

enum Enqueued<R: ScriptRequest> {
    Direct(R, u64),
    Queued(oneshot::Receiver<RedisResult<R::Reply>>),
}

/// The requests of a batch, and where to send each outcome.
type Batch<R> = (
    Vec<R>,
    Vec<oneshot::Sender<RedisResult<<R as ScriptRequest>::Reply>>>,
);

impl<R: ScriptRequest> BatchQueue<R> {
    pub(super) fn new(client: Arc<ScriptClient>, batching: bool) -> Arc<Self> {
        Arc::new(Self {
            client,
            batching,
            state: Mutex::new(QueueState {
                trips: SmallVec::new(),
                waiting: VecDeque::new(),
                left: Instant::now(),
                begun: 0,
            }),
            wake: Notify::new(),
        })
    }

    pub(super) fn client(&self) -> &Arc<ScriptClient> {
        &self.client
    }

    /// Sends one request and returns its outcome.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, a round trip of its own completes in the background. A request that still waits for a
    /// batch is not sent.
    pub(super) async fn send(self: Arc<Self>, request: R) -> RedisResult<R::Reply> {
        if !self.batching || self.client.is_cluster.load(Relaxed) {
            let client = Arc::clone(&self.client);
            return DetachedTrip::new(
                async move { only_outcome(client.deliver(&[request]).await) },
            )
            .await;
        }
        let answer = match self.enqueue(request) {
            Enqueued::Direct(request, number) => {
                let queue = Arc::clone(&self);
                let own = DirectTrip { queue, number };
                let trip = async move { only_outcome(own.queue.client.deliver(&[request]).await) };
                return DetachedTrip::new(trip).await;
            }
            Enqueued::Queued(answer) => answer,
        };
        let limit = self.client.time_limit;
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(outcome)) => outcome,
            // The batch sender was dropped with its runtime.
            Ok(Err(_)) => Err(BackendError::new(BackendErrorKind::Lost)),
            Err(_) => Err(BackendError::new(BackendErrorKind::Timeout(limit))),
        }
    }

    fn enqueue(self: &Arc<Self>, request: R) -> Enqueued<R> {
        let mut state = self.state.lock();
        if !state.trips.is_empty() {
            // Forgets round trips whose runtime has stopped: no round trip takes longer than the time limit.
            let longest = self.client.time_limit.saturating_mul(2);
            let now = Instant::now();
            state
                .trips
                .retain(|trip| now.saturating_duration_since(trip.since) < longest);
        }
        if state.trips.is_empty() {
            let number = state.begin(false);
            return Enqueued::Direct(request, number);
        }
        let (outcome, answer) = oneshot::channel();
        if state.waiting.is_empty() {
            state.left = Instant::now();
        }
        state.waiting.push_back(QueuedRequest { request, outcome });
        let is_called = state.is_called();
        if is_called && state.trips.len() <= MOST_TRIPS {
            self.wake.notify_one();
        }
        let may_call = state.trips.len() < MOST_FAR_TRIPS && !is_called;
        let batch_sender = may_call.then(|| self.batch_sender(&mut state));
        // A runtime that is ending drops the batch sender at once, and its drop locks the state.
        drop(state);
        if let Some(batch_sender) = batch_sender {
            batch_sender.spawn();
        }
        Enqueued::Queued(answer)
    }

    /// Returns the batch sender for the requests that a batch has left behind.
    fn call_next(self: &Arc<Self>) -> Option<BatchSender<R>> {
        let mut state = self.state.lock();
        let wanted = !state.waiting.is_empty() && !state.is_called();
        let may_call = wanted && state.trips.len() < MOST_FAR_TRIPS;
        may_call.then(|| self.batch_sender(&mut state))
    }

    fn batch_sender(self: &Arc<Self>, state: &mut QueueState<R>) -> BatchSender<R> {
        BatchSender {
            number: state.begin(true),
            queue: Arc::clone(self),
            is_done: false,
        }
    }

    /// Returns the time for which a batch sender waits before it takes a batch: zero unless enough round trips are in
    /// flight. Returns `None` and ends the trip if no request waits.
    fn next_departure(&self, number: u64) -> Option<Duration> {
        let mut state = self.state.lock();
        if state.waiting.is_empty() {
            state.end(number);
        }
        if !state.trips.iter().any(|trip| trip.number == number) {
            return None;
        }
        if state.trips.len() <= MOST_TRIPS {
            return Some(Duration::ZERO);
        }
        Some(PACE.saturating_sub(state.left.elapsed()))
    }

    /// Returns whether a batch sender is one too many after its round trip. Its trip has ended then.
    fn is_spare(&self, number: u64) -> bool {
        let mut state = self.state.lock();
        let is_spare =
            state.trips.len() > MOST_TRIPS && (state.waiting.is_empty() || state.is_called());
        if is_spare {
            state.end(number);
        }
        is_spare
    }

    /// Returns the next batch: requests of the script that has waited longest, without requests that were dropped.
    /// Returns `None` and ends the trip if no request waits, or if the trip is not counted any more.
    fn take(&self, number: u64) -> Option<Batch<R>> {
        let mut state = self.state.lock();
        let own = state.trips.iter_mut().find(|trip| trip.number == number)?;
        (own.since, own.called) = (Instant::now(), false);
        state.left = Instant::now();
        let (mut requests, mut outcomes, mut others) = (Vec::new(), Vec::new(), Vec::new());
        let mut script = None;
        // The requests behind the batch stay untouched, because every other request waits for this lock.
        while requests.len() < MOST_TOGETHER
            && let Some(waiting) = state.waiting.pop_front()
        {
            if waiting.outcome.is_closed() {
                continue;
            }
            let own = waiting.request.script();
            if std::ptr::eq(*script.get_or_insert(own), own) {
                requests.push(waiting.request);
                outcomes.push(waiting.outcome);
            } else {
                others.push(waiting);
            }
        }
        for waiting in others.into_iter().rev() {
            state.waiting.push_front(waiting);
        }
        if requests.is_empty() {
            state.end(number);
            return None;
        }
        Some((requests, outcomes))
    }

    /// Ends a trip. If requests wait, a batch sender starts the next one.
    fn ended(self: &Arc<Self>, number: u64) {
        let mut state = self.state.lock();
        if !state.end(number) || state.waiting.is_empty() {
            return;
        }
        if state.is_called() {
            self.wake.notify_one();
            return;
        }
        let batch_sender = self.batch_sender(&mut state);
        drop(state);
        // Outside of a runtime, or in one that is ending, the batch sender is dropped at once.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(batch_sender.run());
        }
    }

    /// Ends a trip whose runtime has ended. If it was the last one, the waiting requests fail.
    fn abandon_trip(&self, number: u64) {
        let mut state = self.state.lock();
        let is_last = state.end(number) && state.trips.is_empty();
        let waiting = if is_last {
            mem::take(&mut state.waiting)
        } else {
            VecDeque::new()
        };
        drop(state);
        drop(waiting);
    }
}

/// Returns the outcome of a round trip with one request.
fn only_outcome<T>(mut outcomes: Vec<RedisResult<T>>) -> RedisResult<T> {
    outcomes
        .pop()
        .unwrap_or_else(|| Err(BackendError::new(BackendErrorKind::Lost)))
}

/// A round trip with one request. Its drop ends the trip.
struct DirectTrip<R: ScriptRequest> {
    queue: Arc<BatchQueue<R>>,
    number: u64,
}

impl<R: ScriptRequest> Drop for DirectTrip<R> {
    fn drop(&mut self) {
        self.queue.ended(self.number);
    }
}

/// Sends batches as long as requests wait.
struct BatchSender<R: ScriptRequest> {
    queue: Arc<BatchQueue<R>>,
    number: u64,
    is_done: bool,
}

impl<R: ScriptRequest> BatchSender<R> {
    /// Spawns the task in this runtime. The future is boxed, because a batch sender spawns the next one.
    fn spawn(self) {
        let run: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(self.run());
        tokio::spawn(run);
    }

    async fn run(mut self) {
        // Lets all tasks that are ready add their requests to the batch.
        tokio::task::yield_now().await;
        loop {
            match self.queue.next_departure(self.number) {
                None => break,
                Some(Duration::ZERO) => {}
                Some(wait) => {
                    // In either case the state decides again.
                    let _ = tokio::time::timeout(wait, self.queue.wake.notified()).await;
                    continue;
                }
            }
            let Some((requests, senders)) = self.queue.take(self.number) else {
                break;
            };
            if let Some(next) = self.queue.call_next() {
                next.spawn();
            }
            let outcomes = self.queue.client.deliver(&requests).await;
            for (sender, outcome) in senders.into_iter().zip(outcomes) {
                // Fails if the request was dropped meanwhile.
                let _ = sender.send(outcome);
            }
            if self.queue.is_spare(self.number) {
                break;
            }
        }
        self.is_done = true;
    }
}

impl<R: ScriptRequest> Drop for BatchSender<R> {
    fn drop(&mut self) {
        // The runtime has dropped the task before its end.
        if !self.is_done {
            self.queue.abandon_trip(self.number);
        }
    }
}

#[cfg(test)]
mod tests;
