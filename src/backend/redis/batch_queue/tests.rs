use super::super::super::Op;
use super::super::backend::RedisBackend;
use super::super::request::OpRequest;

use super::*;
use crate::key::Key;
use crate::policy::Policy;
use crate::quota::{Cost, Quota};

/// Returns the only trip in flight of a queue, and the outcome of a request behind it.
fn trip_and_waiter() -> (
    DirectTrip<OpRequest>,
    oneshot::Receiver<RedisResult<crate::backend::Reply>>,
) {
    let backend = RedisBackend::connect_lazy("redis://127.0.0.1:1/").expect("a URL");
    let queue = Arc::clone(backend.0.route.queue().expect("one server"));
    let (outcome, answer) = oneshot::channel();
    let policy = Policy::new("p", Quota::per_second(1));
    let name = backend.0.preparer.naming.name("p", &Key::from("ann"));
    let request = OpRequest::new(Op::Check(Cost::ONE), &policy, name);
    let mut state = queue.state.lock();
    state.waiting.push_back(QueuedRequest { request, outcome });
    let number = state.begin(false);
    drop(state);
    (DirectTrip { queue, number }, answer)
}

/// Asserts that the request has failed at once and that no trip is in flight.
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
        "no batch sender for the waiting request"
    );
    let outcome = answer.try_recv();
    assert!(
        matches!(outcome, Err(oneshot::error::TryRecvError::Empty)),
        "{outcome:?}"
    );
}

#[test]
fn batch_takes_one_script_and_keeps_the_order_of_the_rest() {
    let backend = RedisBackend::connect_lazy("redis://127.0.0.1:1/").expect("a URL");
    let queue = backend.0.route.queue().expect("one server");
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
        let name = backend.0.preparer.naming.name("p", &Key::from("ann"));
        let request = OpRequest::new(Op::Check(Cost::new(cost)), policy, name);
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
    // The request at index 2 is dropped.
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
