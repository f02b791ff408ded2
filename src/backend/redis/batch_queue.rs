//! Decisions on their way together: with nothing in flight one goes out at once, alone; those that arrive meanwhile go
//! as one batch, a few batches at a time. A batch is what has arrived since the last one left. If Redis is far away, a
//! batch leaves every few milliseconds: no decision waits for a whole round trip before its own.

use std::collections::VecDeque;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};

use super::super::{BackendError, BackendErrorKind};
use super::request::ScriptRequest;
use super::round_trip::{RedisResult, ScriptClient};

/// The most decisions of one EVALSHA: Redis does nothing else meanwhile.
const MOST_TOGETHER: usize = 64;
/// Trips in flight at a time; more would only be smaller.
const MOST_TRIPS: usize = 4;
/// Trips in flight if none of them has ended for the length of [`PACE`].
const MOST_FAR_TRIPS: usize = 256;
/// The longest time that a decision waits for others before its trip begins.
const PACE: Duration = Duration::from_millis(2);

/// Requests that wait for a trip, over one line.
#[derive(Debug)]
pub(super) struct BatchQueue<R: ScriptRequest> {
    client: Arc<ScriptClient>,
    /// Off: every request makes a trip of its own.
    batching: bool,
    state: Mutex<QueueState<R>>,
    /// Wakes a carrier that waits although it could leave.
    wake: Notify,
}

#[derive(Debug)]
struct QueueState<R: ScriptRequest> {
    /// Those in flight, and a carrier that has been called and has not come yet.
    trips: SmallVec<[RunningTrip; MOST_TRIPS]>,
    waiting: VecDeque<QueuedRequest<R>>,
    /// When a batch was last taken.
    left: Instant,
    /// How many trips there have been.
    begun: u64,
}

#[derive(Debug)]
struct RunningTrip {
    number: u64,
    since: Instant,
    /// Whether its carrier has not come yet.
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

    /// Whether it was still counted.
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

/// What a trip takes along, and who hears of it.
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

    /// Does one request.
    ///
    /// Dropped in mid-flight it leaves nothing behind: a trip of its own goes on without it, and in a batch its place
    /// stays empty.
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
            // The carrier is gone, and its runtime with it.
            Ok(Err(_)) => Err(BackendError::new(BackendErrorKind::Lost)),
            Err(_) => Err(BackendError::new(BackendErrorKind::Timeout(limit))),
        }
    }

    fn enqueue(self: &Arc<Self>, request: R) -> Enqueued<R> {
        let mut state = self.state.lock();
        if !state.trips.is_empty() {
            // Those whose runtime nobody drives any more are not waited for: no trip takes longer than the time limit.
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
        // A runtime that is ending drops it at once, and it looks at the state then.
        drop(state);
        if let Some(batch_sender) = batch_sender {
            batch_sender.spawn();
        }
        Enqueued::Queued(answer)
    }

    /// The carrier of those that a batch has left behind.
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

    /// How long a carrier that was called waits: not at all unless enough trips are in flight. `None`, and the trip is
    /// over, if nobody waits for it.
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

    /// Whether a carrier that has come back is one too many.
    fn is_spare(&self, number: u64) -> bool {
        let mut state = self.state.lock();
        let is_spare =
            state.trips.len() > MOST_TRIPS && (state.waiting.is_empty() || state.is_called());
        if is_spare {
            state.end(number);
        }
        is_spare
    }

    /// The next batch: requests of the script that has waited longest. Nobody waits any more for those that were given
    /// up. `None`, and the trip is over, if nobody waits or it is not counted any more.
    fn take(&self, number: u64) -> Option<Batch<R>> {
        let mut state = self.state.lock();
        let own = state.trips.iter_mut().find(|trip| trip.number == number)?;
        (own.since, own.called) = (Instant::now(), false);
        state.left = Instant::now();
        let (mut requests, mut outcomes, mut others) = (Vec::new(), Vec::new(), Vec::new());
        let mut script = None;
        // Those behind the batch are not touched, however many there are: all others wait for this lock.
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

    /// A trip has ended: if anybody waits, somebody else makes the next one.
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
        // Outside of every runtime, or in one that is ending, it is lost at once.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(batch_sender.run());
        }
    }

    /// There is no runtime any more to make a trip in. If no other trip is made, those that wait are told so.
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

/// The outcome of a trip with one request.
fn only_outcome<T>(mut outcomes: Vec<RedisResult<T>>) -> RedisResult<T> {
    outcomes
        .pop()
        .unwrap_or_else(|| Err(BackendError::new(BackendErrorKind::Lost)))
}

/// A trip in the future of its only request: nothing is quicker. If that future is dropped, the trip ends by itself:
/// whoever gives up early must not keep a dead connection from being found out.
pub(super) struct DetachedTrip<T: 'static>(
    Option<Pin<Box<dyn Future<Output = RedisResult<T>> + Send>>>,
);

impl<T> DetachedTrip<T> {
    pub(super) fn new(trip: impl Future<Output = RedisResult<T>> + Send + 'static) -> Self {
        Self(Some(Box::pin(trip)))
    }
}

impl<T> Future for DetachedTrip<T> {
    type Output = RedisResult<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<RedisResult<T>> {
        // Taken out: if this poll panics, the drop must not poll it again.
        let mut trip = self.0.take().expect("polled after completion");
        let outcome = trip.as_mut().poll(cx);
        if outcome.is_pending() {
            self.0 = Some(trip);
        }
        outcome
    }
}

impl<T> Drop for DetachedTrip<T> {
    fn drop(&mut self) {
        if let (Some(trip), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(async move { drop(trip.await) });
        }
    }
}

/// The place of a trip among those in flight.
struct DirectTrip<R: ScriptRequest> {
    queue: Arc<BatchQueue<R>>,
    number: u64,
}

impl<R: ScriptRequest> Drop for DirectTrip<R> {
    fn drop(&mut self) {
        self.queue.ended(self.number);
    }
}

/// Makes trips as long as anybody waits.
struct BatchSender<R: ScriptRequest> {
    queue: Arc<BatchQueue<R>>,
    number: u64,
    is_done: bool,
}

impl<R: ScriptRequest> BatchSender<R> {
    /// Runs it in this runtime. Boxed, for a carrier calls the next one.
    fn spawn(self) {
        let run: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(self.run());
        tokio::spawn(run);
    }

    async fn run(mut self) {
        // Everything that is ready to run may ask first: then the batch is whole.
        tokio::task::yield_now().await;
        loop {
            match self.queue.next_departure(self.number) {
                None => break,
                Some(Duration::ZERO) => {}
                Some(wait) => {
                    // Woken early or late, it looks again.
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
                // Who has given up meanwhile does not hear it.
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
        // Before its time: its runtime ends.
        if !self.is_done {
            self.queue.abandon_trip(self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Op;
    use super::super::backend::RedisBackend;
    use super::super::request::OpRequest;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::key::Key;
    use crate::policy::Policy;
    use crate::quota::{Cost, Quota};

    #[tokio::test]
    async fn a_trip_that_panicked_is_not_polled_again() {
        let polls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&polls);
        let mut trip = DetachedTrip::<()>::new(std::future::poll_fn(move |_| {
            counted.fetch_add(1, Relaxed);
            panic!("on purpose")
        }));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let poll = || drop(Pin::new(&mut trip).poll(&mut cx));
        assert!(catch_unwind(AssertUnwindSafe(poll)).is_err());
        drop(trip);
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(polls.load(Relaxed), 1);
    }

    /// A queue with one trip in flight and a request behind it: the trip, and the request's answer.
    fn trip_and_waiter() -> (
        DirectTrip<OpRequest>,
        oneshot::Receiver<RedisResult<crate::backend::Reply>>,
    ) {
        let backend = RedisBackend::connect_lazy("redis://127.0.0.1:1/").expect("it is not asked");
        let queue = Arc::clone(&backend.0.queue);
        let (outcome, answer) = oneshot::channel();
        let request = OpRequest {
            op: Op::Check(Cost::ONE),
            policy: Policy::new("p", Quota::per_second(1)),
            name: backend.0.preparer.naming.name("p", &Key::from("ann")),
        };
        let mut state = queue.state.lock();
        state.waiting.push_back(QueuedRequest { request, outcome });
        let number = state.begin(false);
        drop(state);
        (DirectTrip { queue, number }, answer)
    }

    /// The request fails at once, and the next one makes a trip of its own.
    fn nothing_waits(
        queue: &BatchQueue<OpRequest>,
        mut answer: oneshot::Receiver<RedisResult<crate::backend::Reply>>,
    ) {
        let outcome = answer.try_recv();
        assert!(
            matches!(outcome, Err(oneshot::error::TryRecvError::Closed)),
            "{outcome:?}"
        );
        let state = queue.state.lock();
        assert!(state.waiting.is_empty() && state.trips.is_empty());
    }

    #[test]
    fn requests_fail_if_the_last_trip_ends_outside_of_a_runtime() {
        let (trip, answer) = trip_and_waiter();
        let queue = Arc::clone(&trip.queue);
        drop(trip);
        nothing_waits(&queue, answer);
    }

    #[test]
    fn requests_fail_if_the_last_trip_ends_with_its_runtime() {
        let (trip, answer) = trip_and_waiter();
        let queue = Arc::clone(&trip.queue);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        runtime.spawn(async move {
            let _trip = trip;
            std::future::pending::<()>().await;
        });
        drop(runtime);
        nothing_waits(&queue, answer);
    }

    #[tokio::test]
    async fn requests_behind_a_trip_that_ends_are_sent_by_another_one() {
        let (trip, mut answer) = trip_and_waiter();
        let queue = Arc::clone(&trip.queue);
        drop(trip);
        assert!(
            queue.state.lock().is_called(),
            "nothing sends what is left behind"
        );
        let outcome = answer.try_recv();
        assert!(
            matches!(outcome, Err(oneshot::error::TryRecvError::Empty)),
            "{outcome:?}"
        );
    }

    #[test]
    fn batch_takes_one_script_and_keeps_the_order_of_the_rest() {
        let backend = RedisBackend::connect_lazy("redis://127.0.0.1:1/").expect("it is not asked");
        let queue = &backend.0.queue;
        let policies = [
            Policy::new("p", Quota::per_second(1)),
            Policy::new(
                "p",
                Quota::fixed_window(1, std::time::Duration::from_secs(1)),
            ),
        ];
        let mut answers = VecDeque::new();
        let mut enter = |policy: &Policy, cost| {
            let (outcome, answer) = oneshot::channel();
            answers.push_back(answer);
            let request = OpRequest {
                op: Op::Check(Cost::new(cost)),
                policy: policy.clone(),
                name: backend.0.preparer.naming.name("p", &Key::from("ann")),
            };
            queue
                .state
                .lock()
                .waiting
                .push_back(QueuedRequest { request, outcome });
        };
        for cost in 0..100 {
            enter(&policies[usize::from(cost % 2 == 1)], cost);
        }
        let number = queue.state.lock().begin(false);
        // Number 2 has given up.
        drop(answers.remove(2));
        let batch = || -> Option<Vec<u64>> {
            let (requests, _) = queue.take(number)?;
            let cost = |request: &OpRequest| match &request.op {
                Op::Check(cost) => cost.get(0),
                _ => unreachable!("all are checks"),
            };
            Some(requests.iter().map(cost).collect())
        };
        let even: Vec<u64> = (0..100).step_by(2).filter(|cost| *cost != 2).collect();
        let odd: Vec<u64> = (1..100).step_by(2).collect();
        assert_eq!(batch(), Some(even));
        assert_eq!(batch(), Some(odd));
        assert_eq!(batch(), None);
        assert!(queue.state.lock().trips.is_empty());
    }
}
