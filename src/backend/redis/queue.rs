//! Decisions on their way together: with nothing in flight one goes out at once, alone; those that arrive meanwhile go as one
//! batch, a few batches at a time. There is no timer: a batch is what has arrived since the last one left.

use std::collections::VecDeque;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::super::{BackendError, BackendErrorKind};
use super::request::Request;
use super::trip::{Line, Outcome};

/// The most decisions of one EVALSHA: Redis does nothing else meanwhile.
const MOST_TOGETHER: usize = 64;
/// Trips in flight at a time; more would only be smaller.
const MOST_TRIPS: usize = 4;

/// Requests that wait for a trip, over one line.
#[derive(Debug)]
pub(super) struct Queue {
    line: Arc<Line>,
    /// Off: every request makes a trip of its own.
    batching: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    trips: usize,
    /// The carrier that has been called and has not come yet.
    called: Option<Call>,
    calls: u64,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Call {
    number: u64,
    since: Instant,
}

#[derive(Debug)]
struct Waiting {
    request: Request,
    outcome: oneshot::Sender<Outcome>,
}

enum Entered {
    Alone(Request),
    Waits(oneshot::Receiver<Outcome>),
}

impl Queue {
    pub(super) fn new(line: Arc<Line>, batching: bool) -> Arc<Self> {
        Arc::new(Self {
            line,
            batching,
            state: Mutex::default(),
        })
    }

    pub(super) fn line(&self) -> &Arc<Line> {
        &self.line
    }

    /// Does one request.
    ///
    /// Dropped in mid-flight it leaves nothing behind: a trip of its own goes on without it, and in a batch its place stays
    /// empty.
    pub(super) async fn send(self: Arc<Self>, request: Request) -> Outcome {
        if !self.batching {
            let line = Arc::clone(&self.line);
            return OwnTrip::new(async move { alone(line.deliver(&[request]).await) }).await;
        }
        let answer = match self.enter(request) {
            Entered::Alone(request) => {
                let own = Slot(Arc::clone(&self));
                let trip = async move { alone(own.0.line.deliver(&[request]).await) };
                return OwnTrip::new(trip).await;
            }
            Entered::Waits(answer) => answer,
        };
        let limit = self.line.time_limit;
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(outcome)) => outcome,
            // The carrier is gone, and its runtime with it.
            Ok(Err(_)) => Err(BackendError::new(BackendErrorKind::Lost)),
            Err(_) => Err(BackendError::new(BackendErrorKind::Timeout(limit))),
        }
    }

    fn enter(self: &Arc<Self>, request: Request) -> Entered {
        let mut state = self.state.lock();
        if state.trips == 0 {
            state.trips = 1;
            return Entered::Alone(request);
        }
        let (outcome, answer) = oneshot::channel();
        state.waiting.push_back(Waiting { request, outcome });
        let carrier = match &state.called {
            None if state.trips < MOST_TRIPS => {
                state.trips += 1;
                Some(self.call_carrier(&mut state))
            }
            // It was called in a runtime that nobody drives any more: another one comes in its place.
            Some(call) if call.since.elapsed() > self.line.time_limit => {
                Some(self.call_carrier(&mut state))
            }
            _ => None,
        };
        // A runtime that is ending drops it at once, and it looks at the state then.
        drop(state);
        if let Some(carrier) = carrier {
            tokio::spawn(carrier.run());
        }
        Entered::Waits(answer)
    }

    fn call_carrier(self: &Arc<Self>, state: &mut State) -> Carrier {
        state.calls += 1;
        let (number, since) = (state.calls, Instant::now());
        state.called = Some(Call { number, since });
        Carrier {
            queue: Arc::clone(self),
            number,
            stage: Stage::Called,
        }
    }

    /// Whether the carrier of this call is still expected.
    fn arrives(&self, number: u64) -> bool {
        let mut state = self.state.lock();
        let expected = matches!(&state.called, Some(call) if call.number == number);
        if expected {
            state.called = None;
        }
        expected
    }

    /// The next batch: requests of the script that has waited longest. Nobody waits any more for those that were given up.
    /// `None`, and the trip is over, if nobody waits.
    fn take(&self) -> Option<(Vec<Request>, Vec<oneshot::Sender<Outcome>>)> {
        let mut state = self.state.lock();
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
            state.trips -= 1;
            return None;
        }
        Some((requests, outcomes))
    }

    /// A trip has ended: if anybody waits, somebody else makes the next one.
    fn ended(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if state.waiting.is_empty() || state.called.is_some() {
            state.trips -= 1;
            return;
        }
        let carrier = self.call_carrier(&mut state);
        drop(state);
        // Outside of every runtime, or in one that is ending, it is lost at once.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(carrier.run());
        }
    }

    /// There is no runtime any more to make a trip in. If no other trip is made, those that wait are told so.
    fn lose_trip(&self) {
        let mut state = self.state.lock();
        state.trips -= 1;
        let waiting = match state.trips {
            0 => mem::take(&mut state.waiting),
            _ => VecDeque::new(),
        };
        drop(state);
        drop(waiting);
    }
}

/// The outcome of a trip with one request.
fn alone(mut outcomes: Vec<Outcome>) -> Outcome {
    outcomes
        .pop()
        .unwrap_or_else(|| Err(BackendError::new(BackendErrorKind::Lost)))
}

/// A trip in the future of its only request: nothing is quicker. If that future is dropped, the trip ends by itself: whoever
/// gives up early must not keep a dead connection from being found out.
pub(super) struct OwnTrip(Option<Pin<Box<dyn Future<Output = Outcome> + Send>>>);

impl OwnTrip {
    pub(super) fn new(trip: impl Future<Output = Outcome> + Send + 'static) -> Self {
        Self(Some(Box::pin(trip)))
    }
}

impl Future for OwnTrip {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let trip = self.0.as_mut().expect("polled after completion");
        let outcome = ready!(trip.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(outcome)
    }
}

impl Drop for OwnTrip {
    fn drop(&mut self) {
        if let (Some(trip), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(trip);
        }
    }
}

/// The place of a trip among those in flight.
struct Slot(Arc<Queue>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.ended();
    }
}

/// Makes trips as long as anybody waits.
struct Carrier {
    queue: Arc<Queue>,
    number: u64,
    /// What it does to the number of trips when it is dropped.
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Called,
    OnItsWay,
    Done,
}

impl Carrier {
    async fn run(mut self) {
        // Everything that is ready to run may ask first: then the batch is whole.
        tokio::task::yield_now().await;
        if self.queue.arrives(self.number) {
            self.stage = Stage::OnItsWay;
            while let Some((requests, senders)) = self.queue.take() {
                let outcomes = self.queue.line.deliver(&requests).await;
                for (sender, outcome) in senders.into_iter().zip(outcomes) {
                    // Who has given up meanwhile does not hear it.
                    let _ = sender.send(outcome);
                }
            }
        }
        self.stage = Stage::Done;
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        // Dropped before its time, as its runtime ended; unless another one was called in its place.
        let is_lost = match self.stage {
            Stage::Called => self.queue.arrives(self.number),
            Stage::OnItsWay => true,
            Stage::Done => false,
        };
        if is_lost {
            self.queue.lose_trip();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Op;
    use super::super::RedisBackend;
    use super::*;
    use crate::key::Key;
    use crate::policy::Policy;
    use crate::quota::{Cost, Quota};

    #[test]
    fn a_batch_is_of_one_script_and_leaves_the_others_in_their_order() {
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
            let request = Request {
                op: Op::Check(Cost::new(cost)),
                policy: policy.clone(),
                name: backend.0.naming.name("p", &Key::from("ann")),
            };
            queue
                .state
                .lock()
                .waiting
                .push_back(Waiting { request, outcome });
        };
        for cost in 0..100 {
            enter(&policies[cost as usize % 2], cost);
        }
        queue.state.lock().trips = 1;
        // Number 2 has given up.
        drop(answers.remove(2));
        let batch = || -> Option<Vec<u32>> {
            let (requests, _) = queue.take()?;
            let cost = |request: &Request| match &request.op {
                Op::Check(cost) => cost.of(0),
                _ => unreachable!("all are checks"),
            };
            Some(requests.iter().map(cost).collect())
        };
        let even: Vec<u32> = (0..100).step_by(2).filter(|cost| *cost != 2).collect();
        let odd: Vec<u32> = (1..100).step_by(2).collect();
        assert_eq!(batch(), Some(even));
        assert_eq!(batch(), Some(odd));
        assert_eq!(batch(), None);
        assert_eq!(queue.state.lock().trips, 0);
    }
}
