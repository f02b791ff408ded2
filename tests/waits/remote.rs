//! A backend that answers later: requests dropped before their reply, and queues whose backend fails.

use tower_sluice::backend::Backend;
use tower_sluice::limiter::Rejected;
use tower_sluice::{
    Charge, FailurePolicy, Global, Key, Limiter, MaxWait, Policy, Quota, RateLimitLayer,
};

use crate::executor::{AlarmClock, Executor, ms, secs, us};
use crate::wire::{Cut, Wire, settle};

type Outcome = Result<Charge, Rejected<Cut>>;

pub(crate) struct RemoteLimiter {
    pub(crate) clock: AlarmClock,
    pub(crate) wire: Wire,
    pub(crate) limiter: Limiter<Wire>,
    pub(crate) executor: Executor<Outcome>,
}

impl RemoteLimiter {
    pub(crate) fn of(policy: &Policy) -> Self {
        let clock = AlarmClock::new();
        let wire = Wire::new(&clock);
        Self {
            limiter: Limiter::new(policy.clone(), wire.clone()),
            executor: Executor::new(&clock),
            wire,
            clock,
        }
    }

    pub(crate) fn join(&mut self, cost: u64, max_wait: impl Into<MaxWait>) -> usize {
        let (limiter, max_wait) = (self.limiter.clone(), max_wait.into());
        let wait = async move { limiter.acquire(&Key::from("ann"), cost, max_wait).await };
        self.executor.join(wait)
    }

    /// The remaining tokens, and the µs until the limit is full.
    pub(crate) fn state(&self) -> (u64, std::time::Duration) {
        self.wire.state(self.limiter.policy(), &Key::from("ann"))
    }

    /// Waiters, running background tasks, and failed background tasks.
    pub(crate) fn context(&self) -> (usize, usize, usize) {
        let context = self.wire.context();
        (
            context.stats().waiting,
            context.stats().background_tasks,
            context.stats().failed_background_tasks,
        )
    }

    pub(crate) fn ended(&mut self) -> Vec<(usize, Result<(), Rejected<Cut>>)> {
        let ended = self.executor.ended.drain(..);
        ended
            .map(|ended| (ended.waiter, ended.outcome.map(drop)))
            .collect()
    }
}

pub(crate) fn bucket() -> Policy {
    Policy::new("bucket", Quota::per_second(5))
}

pub(crate) fn window() -> Policy {
    Policy::new("window", Quota::sliding_log(5, secs(1)))
}

pub(crate) const FRESH: (u64, std::time::Duration) = (5, std::time::Duration::ZERO);

#[tokio::test]
async fn charge_of_a_dropped_check_is_refunded() {
    for (policy, max_wait, undone) in [
        (bucket(), MaxWait::Unbounded, "cancel"),
        (bucket(), MaxWait::NONE, "refund"),
        (window(), MaxWait::Unbounded, "refund"),
        (window(), MaxWait::NONE, "refund"),
    ] {
        let mut remote = RemoteLimiter::of(&policy);
        remote.wire.hold();
        let waiter = remote.join(3, max_wait);
        assert_eq!(remote.state().0, 2, "the operation arrived");
        assert!(remote.executor.leave(waiter));
        settle().await;
        assert_eq!((remote.context(), remote.state().0), ((0, 1, 0), 2));
        remote.wire.release();
        settle().await;
        assert_eq!(
            (remote.context(), remote.state()),
            ((0, 0, 0), FRESH),
            "{policy:?}"
        );
        assert_eq!(remote.wire.sent()[1..], [undone]);
    }
}

#[tokio::test]
async fn unclaimed_reservation_is_refunded_only_if_it_is_the_last() {
    for is_last in [true, false] {
        let mut remote = RemoteLimiter::of(&bucket());
        remote.join(5, MaxWait::Unbounded);
        remote.wire.hold();
        let waiter = remote.join(2, MaxWait::Unbounded);
        if !is_last {
            remote.join(1, MaxWait::Unbounded);
        }
        assert!(remote.executor.leave(waiter));
        remote.wire.release();
        remote.executor.run();
        settle().await;
        assert_eq!(remote.context(), (usize::from(!is_last), 0, 0));
        let owed = if is_last { 5 } else { 8 };
        assert_eq!(remote.state(), (0, ms(200) * owed));
    }
}

#[tokio::test]
async fn dropped_waiter_cancels_its_reservation_in_the_background() {
    let mut remote = RemoteLimiter::of(&bucket());
    remote.join(5, MaxWait::Unbounded);
    let [first, last] = [(); 2].map(|()| remote.join(1, MaxWait::Unbounded));
    assert_eq!(
        (remote.context(), remote.state()),
        ((2, 0, 0), (0, ms(1_400)))
    );
    assert!(remote.executor.leave(last));
    settle().await;
    assert_eq!(
        (remote.context(), remote.state()),
        ((1, 0, 0), (0, ms(1_200)))
    );
    remote.clock.jump(ms(100));
    assert!(remote.executor.leave(first));
    settle().await;
    assert_eq!(
        (remote.context(), remote.state()),
        ((0, 0, 0), (0, ms(900)))
    );
}

#[tokio::test]
async fn denial_of_a_dropped_request_needs_no_undo() {
    for policy in [bucket(), window()] {
        let mut remote = RemoteLimiter::of(&policy);
        remote.join(5, MaxWait::NONE);
        remote.wire.sent();
        remote.wire.hold();
        let waiter = remote.join(1, us(1));
        assert!(remote.executor.leave(waiter));
        remote.wire.release();
        settle().await;
        assert_eq!((remote.context(), remote.wire.sent().len()), ((0, 0, 0), 1));
    }
}

#[tokio::test]
async fn unsent_operation_is_not_undone() {
    for max_wait in [MaxWait::NONE, MaxWait::Unbounded] {
        let mut remote = RemoteLimiter::of(&bucket());
        let limiter = remote.limiter.clone();
        let wait = async move { limiter.acquire(&Key::from("ann"), 1, max_wait).await };
        let waiter = remote.executor.add(wait);
        assert!(remote.executor.leave(waiter));
        settle().await;
        assert_eq!((remote.context(), remote.wire.sent().len()), ((0, 0, 0), 0));
    }
}

#[tokio::test]
async fn failed_check_of_a_dropped_request_is_not_counted_and_a_failed_refund_is() {
    let mut remote = RemoteLimiter::of(&bucket());
    remote.wire.hold();
    let waiter = remote.join(1, MaxWait::Unbounded);
    assert!(remote.executor.leave(waiter));
    remote.wire.cut();
    remote.wire.release();
    settle().await;
    // It is unknown whether it was charged.
    assert_eq!(
        (remote.context(), remote.wire.sent()),
        ((0, 0, 0), vec!["reserve"])
    );

    remote.wire.mend();
    remote.join(4, MaxWait::Unbounded);
    let waiter = remote.join(1, MaxWait::Unbounded);
    remote.executor.ended.clear();
    remote.wire.cut();
    assert!(remote.executor.leave(waiter));
    settle().await;
    assert_eq!(remote.context(), (0, 0, 1));
    remote.wire.mend();
    assert_eq!(
        remote.state().1,
        ms(200) * 6,
        "the reservation stays charged"
    );
}

#[tokio::test(start_paused = true)]
async fn slow_background_tasks_time_out_and_are_counted() {
    let mut remote = RemoteLimiter::of(&bucket());
    remote.wire.hold();
    for _ in 0..3 {
        let waiter = remote.join(1, MaxWait::Unbounded);
        assert!(remote.executor.leave(waiter));
    }
    tokio::time::sleep(secs(4)).await;
    assert_eq!(remote.context(), (0, 3, 0));
    tokio::time::sleep(secs(2)).await;
    assert_eq!(remote.context(), (0, 0, 3));
}

#[tokio::test]
async fn many_dropped_permits_are_all_released_in_the_background() {
    let mut remote = RemoteLimiter::of(&Policy::new("bucket", Quota::per_second(5_000)));
    remote.wire.hold();
    for number in 0..3_000 {
        let waiter = remote.join(1, MaxWait::Unbounded);
        assert!(remote.executor.leave(waiter));
        assert_eq!(remote.context().1, number + 1);
    }
    settle().await;
    remote.wire.release();
    settle().await;
    assert_eq!(remote.context(), (0, 0, 0));
}

#[tokio::test]
async fn failed_undo_operations_are_counted() {
    // The reply came too late, and now the connection is cut.
    for (policy, undone) in [(bucket(), "cancel"), (window(), "refund")] {
        let mut remote = RemoteLimiter::of(&policy);
        remote.wire.hold();
        let waiter = remote.join(1, MaxWait::Unbounded);
        assert!(remote.executor.leave(waiter));
        remote.wire.cut_for(undone);
        remote.wire.release();
        settle().await;
        assert_eq!(remote.context(), (0, 0, 1), "{undone}");
        assert_eq!(remote.state().0, 4);
    }
    // The circuit is open: nothing was sent.
    let mut remote = RemoteLimiter::of(&bucket());
    remote.join(5, MaxWait::Unbounded);
    let reservation = remote.join(1, MaxWait::Unbounded);
    remote.wire.open_circuit();
    assert!(remote.executor.leave(reservation));
    assert_eq!(remote.context(), (0, 0, 1));
    assert_eq!(remote.wire.sent(), ["reserve"; 2]);
}

/// A slow reply is not a wait: only a denial or a reservation makes a request wait.
#[tokio::test]
async fn immediate_acquire_reports_no_wait() {
    for policy in [bucket(), window()] {
        let mut remote = RemoteLimiter::of(&policy);
        remote.wire.hold();
        remote.join(1, MaxWait::Unbounded);
        remote.executor.until(ms(40));
        remote.wire.release();
        remote.executor.run();
        let charge = remote.executor.ended.pop().expect("it must exist").outcome;
        assert_eq!(
            charge.expect("it must exist").waited(),
            std::time::Duration::ZERO
        );
    }
}

/// A request that is dropped before its first poll was not sent. Nothing is refunded.
#[tokio::test]
async fn unpolled_request_sends_nothing() {
    use tower::Service;
    let remote = RemoteLimiter::of(&bucket());
    let mut layered = tower::Layer::layer(
        &RateLimitLayer::new(bucket(), Global, remote.wire.clone())
            .refund_on_disconnect()
            .on_backend_error(FailurePolicy::FailClosed),
        tower::service_fn(|_: http::Request<()>| async {
            Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
        }),
    );
    let ready = std::future::poll_fn(|cx| layered.poll_ready(cx)).await;
    ready.expect("always");
    drop(layered.call(http::Request::new(())));
    settle().await;
    assert_eq!((remote.context(), remote.wire.sent().len()), ((0, 0, 0), 0));
}

#[test]
fn without_a_runtime_failed_undo_operations_are_counted() {
    let mut remote = RemoteLimiter::of(&bucket());
    remote.wire.hold();
    let on_its_way = remote.join(1, MaxWait::Unbounded);
    assert!(remote.executor.leave(on_its_way));
    assert_eq!(remote.context(), (0, 0, 1));
    remote.wire.release();
    remote.join(4, MaxWait::Unbounded);
    let reservation = remote.join(1, MaxWait::Unbounded);
    assert!(remote.executor.leave(reservation));
    assert_eq!(remote.context(), (0, 0, 2));
}

#[tokio::test]
async fn due_reservations_need_no_backend() {
    let mut remote = RemoteLimiter::of(&bucket());
    for _ in 0..8 {
        remote.join(1, MaxWait::Unbounded);
    }
    remote.wire.cut();
    let late = remote.join(1, MaxWait::Unbounded);
    assert_eq!(remote.executor.waiting(), [5, 6, 7]);
    let last = remote
        .executor
        .ended
        .pop()
        .expect("the request was not sent");
    assert_eq!(last.waiter, late);
    assert_eq!(last.outcome.err(), Some(Rejected::Backend(Cut)));
    remote.executor.ended.clear();
    remote.executor.until(secs(1));
    let at: Vec<_> = remote.executor.ended.iter().map(|ended| ended.at).collect();
    assert_eq!(at, [ms(200), ms(400), ms(600)]);
    assert!(
        remote
            .executor
            .ended
            .iter()
            .all(|ended| ended.outcome.is_ok())
    );
}
