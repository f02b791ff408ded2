//! Every interleaving of requests to Redis from two runtimes: start, poll and drop, received and lost replies, and the
//! stop of one runtime.
//!
//! Code between two await points is one step. A future that is not woken is not polled, as in a runtime, so a lost
//! wakeup shows. Each request has its own key and its own reply, so a mix-up shows.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::ConnectionLike;
use redis::{Arg, Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, Value};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tower_sluice::backend::redis::adapter::RedisConnection;
use tower_sluice::backend::{BackendError, BackendErrorKind, Reply};
use tower_sluice::{Key, Limiter, Policy, Quota, RedisBackend};

const REQUESTS: usize = 3;

/// A connection whose replies come when the test releases them.
#[derive(Clone, Default)]
struct Gate(Arc<Mutex<VecDeque<oneshot::Sender<()>>>>);

impl ConnectionLike for Gate {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        let (opens, opened) = oneshot::channel();
        self.0.lock().push_back(opens);
        let answer = answer(command);
        Box::pin(async move {
            let lost = |_| RedisError::from((ErrorKind::Io, "the connection is lost"));
            opened.await.map_err(lost)?;
            Ok(answer)
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        _: &'a Pipeline,
        _: usize,
        _: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        unreachable!("scripts are asked for one at a time")
    }

    fn get_db(&self) -> i64 {
        0
    }
}

const CAPACITY: u32 = 9;

/// Each check is allowed, and the number in its key remains.
fn answer(command: &Cmd) -> Value {
    let args: Vec<_> = command
        .args_iter()
        .map(|arg| match arg {
            Arg::Simple(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            other => panic!("an argument of another kind: {other:?}"),
        })
        .collect();
    let keys: usize = args[2].parse().expect("how many keys");
    // The keys of the blocks follow those of the quotas.
    let numbers = args[3..3 + keys / 2].iter().map(|key| {
        let number = key.split(":r").nth(1).and_then(|rest| rest.chars().next());
        number
            .and_then(|digit| digit.to_digit(10))
            .expect("a number in the key")
    });
    // The answer is the debt. A token of nine per second has a million grains.
    let debts = numbers.map(|number| (i64::from(CAPACITY) - i64::from(number)) * 1_000_000);
    Value::Array(debts.map(Value::Int).collect())
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

type RequestFuture = Pin<Box<dyn Future<Output = Result<Reply, BackendError>>>>;

struct Request {
    number: usize,
    runs: Option<RequestFuture>,
    woken: Arc<Woken>,
    outcome: Option<Result<Reply, BackendError>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Starts the next request, in its runtime.
    Ask,
    /// Polls a woken request.
    Poll(usize),
    /// Drops a request.
    Drop(usize),
    /// Answers the oldest command, or loses its reply.
    Answer,
    Lose,
    /// A runtime runs its ready tasks.
    Run(usize),
    /// The first runtime stops, with its requests.
    Stop,
}

const STEPS: [Step; 12] = [
    Step::Ask,
    Step::Poll(0),
    Step::Poll(1),
    Step::Poll(2),
    Step::Drop(0),
    Step::Drop(1),
    Step::Drop(2),
    Step::Answer,
    Step::Lose,
    Step::Run(0),
    Step::Run(1),
    Step::Stop,
];

struct Fixture {
    limiter: Limiter<RedisBackend>,
    gate: Gate,
    requests: Vec<Request>,
    /// The runtime of each request. Further requests are in the second one.
    homes: [usize; REQUESTS],
    runtimes: [Option<Runtime>; 2],
    was_lost: bool,
}

impl Fixture {
    fn new(homes: [usize; REQUESTS]) -> Self {
        let gate = Gate::default();
        let backend = RedisBackend::builder()
            .deny_cache(Duration::ZERO)
            .from_transport(RedisConnection::new(gate.clone()));
        let runtime = || {
            let mut builder = Builder::new_current_thread();
            // Time never passes: no time limit helps.
            let runtime = builder.enable_time().start_paused(true).build();
            Some(runtime.expect("a runtime"))
        };
        Self {
            limiter: Limiter::new(
                Policy::new("p", Quota::per_second(CAPACITY.into())),
                backend,
            ),
            gate,
            requests: Vec::new(),
            homes,
            runtimes: [runtime(), runtime()],
            was_lost: false,
        }
    }

    fn home(&self, number: usize) -> usize {
        self.homes.get(number).copied().unwrap_or(1)
    }

    fn is_possible(&self, step: Step) -> bool {
        let open = |number: usize| {
            self.requests
                .get(number)
                .filter(|requests| requests.runs.is_some())
        };
        match step {
            Step::Ask => {
                let next = self.requests.len();
                next < REQUESTS && self.runtimes[self.home(next)].is_some()
            }
            Step::Poll(number) => {
                open(number).is_some_and(|requests| requests.woken.0.load(SeqCst))
            }
            Step::Drop(number) => open(number).is_some(),
            Step::Answer | Step::Lose => !self.gate.0.lock().is_empty(),
            Step::Run(number) => self.runtimes[number].is_some() && !self.requests.is_empty(),
            Step::Stop => self.runtimes[0].is_some() && !self.requests.is_empty(),
        }
    }

    fn does(&mut self, step: Step) {
        match step {
            Step::Ask => self.ask(),
            Step::Poll(number) => self.poll(number),
            Step::Drop(number) => self.drop_request(number),
            Step::Answer => drop(self.gate.0.lock().pop_front().map(|opens| opens.send(()))),
            Step::Lose => {
                self.was_lost = true;
                drop(self.gate.0.lock().pop_front());
            }
            Step::Run(number) => self.run(number),
            Step::Stop => {
                for number in 0..self.requests.len() {
                    if self.home(number) == 0 {
                        self.drop_request(number);
                    }
                }
                self.was_lost = true;
                self.runtimes[0] = None;
            }
        }
    }

    fn ask(&mut self) {
        let number = self.requests.len();
        let limiter = self.limiter.clone();
        let runs = async move {
            limiter
                .check(&Key::from(number.to_string().as_str()), 1)
                .await
        };
        self.requests.push(Request {
            number,
            runs: Some(Box::pin(runs)),
            woken: Arc::default(),
            outcome: None,
        });
        self.poll(number);
    }

    fn poll(&mut self, number: usize) {
        let Some(runtime) = &self.runtimes[self.home(number)] else {
            return;
        };
        let _inside = runtime.enter();
        let requests = &mut self.requests[number];
        requests.woken.0.store(false, SeqCst);
        let waker = Waker::from(Arc::clone(&requests.woken));
        let Some(runs) = &mut requests.runs else {
            return;
        };
        if let Poll::Ready(outcome) = runs.as_mut().poll(&mut Context::from_waker(&waker)) {
            requests.outcome = Some(outcome);
            requests.runs = None;
        }
    }

    fn drop_request(&mut self, number: usize) {
        if let Some(runtime) = &self.runtimes[self.home(number)] {
            let _inside = runtime.enter();
            self.requests[number].runs = None;
        }
    }

    fn run(&self, number: usize) {
        if let Some(runtime) = &self.runtimes[number] {
            runtime.block_on(async {
                for _ in 0..4 {
                    tokio::task::yield_now().await;
                }
            });
        }
    }

    /// Runs everything until nothing is ready.
    fn settle(&mut self) {
        for _ in 0..4 {
            while let Some(opens) = self.gate.0.lock().pop_front() {
                let _ = opens.send(());
            }
            self.run(0);
            self.run(1);
            for number in 0..self.requests.len() {
                if self.requests[number].woken.0.load(SeqCst) {
                    self.poll(number);
                }
            }
        }
    }

    /// No remaining request is stuck, and each one has its own reply.
    fn is_sound(&mut self) {
        self.settle();
        for requests in &self.requests {
            assert!(
                requests.runs.is_none(),
                "request {} never completes",
                requests.number
            );
        }
        // The queue continues with another request, in the remaining runtime.
        while self.home(self.requests.len()) == 0 {
            let woken = Arc::default();
            let number = self.requests.len();
            self.requests.push(Request {
                number,
                runs: None,
                woken,
                outcome: None,
            });
        }
        self.ask();
        self.settle();
        let last = self.requests.len() - 1;
        for requests in &self.requests {
            assert!(
                requests.runs.is_none(),
                "request {} never completes",
                requests.number
            );
            match &requests.outcome {
                Some(Ok(reply)) => {
                    let remaining = reply.decision.snapshot().remaining();
                    let remaining = usize::try_from(remaining).expect("small");
                    assert_eq!(remaining, requests.number, "the reply of another request");
                }
                Some(Err(error)) => {
                    let is_timeout = matches!(error.kind(), BackendErrorKind::Timeout(_));
                    assert!(self.was_lost && !is_timeout, "{error:?}");
                    assert!(requests.number != last, "the queue is stuck: {error:?}");
                }
                None => assert!(requests.number != last),
            }
        }
    }
}

/// Runs these steps from the start. Returns whether this order is possible.
fn try_steps(steps: &[Step], homes: [usize; REQUESTS]) -> bool {
    let mut stand = Fixture::new(homes);
    for step in steps {
        if !stand.is_possible(*step) {
            return false;
        }
        stand.does(*step);
    }
    stand.is_sound();
    true
}

/// All orders of up to `longest` steps. One more step takes five times as long, and 7 steps were tested once.
fn try_all(homes: [usize; REQUESTS], longest: usize) {
    let mut tried = 0;
    let mut open = vec![vec![Step::Ask]];
    while let Some(steps) = open.pop() {
        tried += 1;
        if steps.len() == longest {
            continue;
        }
        for step in STEPS {
            let more: Vec<Step> = steps.iter().copied().chain([step]).collect();
            let sound = std::panic::catch_unwind(|| try_steps(&more, homes));
            match sound {
                Ok(true) => open.push(more),
                Ok(false) => {}
                Err(_) => panic!("not sound: {more:?}"),
            }
        }
    }
    println!("{tried} orders");
    assert!(tried > 1_000);
}

#[test]
fn no_interleaving_of_runtimes_loses_or_mixes_up_a_reply() {
    try_all([0, 1, 0], 5);
}

#[test]
fn no_interleaving_of_a_shared_round_trip_loses_or_mixes_up_a_reply() {
    try_all([0, 0, 1], 6);
}
