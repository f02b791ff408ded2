//! Waiting for permits that are released in this process and in others. Backends of their own act as other processes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tower_sluice::backend::Answer;
use tower_sluice::semaphore::{PermitBackend, PermitId, PermitOp};
use tower_sluice::{Key, MaxWait, RedisBackend, RedisSemaphore, Semaphore, SemaphorePolicy};

use crate::support::redis::RedisServer;

const SECOND: Duration = Duration::from_secs(1);
/// The documented bound: one command for each waiter in this time.
const TIME_OF_ONE: Duration = Duration::from_millis(50);

async fn server_of(server: &RedisServer, capacity: u32) -> Semaphore<RedisSemaphore> {
    let builder = RedisBackend::builder().time_limit(20 * SECOND);
    let redis = builder
        .connect(server.url())
        .await
        .expect("the server runs");
    Semaphore::new(
        SemaphorePolicy::new("exports", capacity),
        RedisSemaphore::new(&redis),
    )
}

fn ann() -> Key {
    Key::from("ann")
}

fn commands(server: &RedisServer) -> u64 {
    server.calls("evalsha") + server.calls("eval")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_waiter_polls_every_50_ms_and_gets_a_released_permit() {
    let server = RedisServer::start();
    let (here, there) = (server_of(&server, 1).await, server_of(&server, 1).await);
    let mut late = Vec::new();
    for _ in 0..5 {
        let held = there.try_acquire(&ann(), 1).await.expect("free");
        let before = commands(&server);
        let waiter = {
            let here = here.clone();
            tokio::spawn(async move {
                let permit = here.acquire(&ann(), 1, 10 * SECOND).await.expect("in time");
                (Instant::now(), permit)
            })
        };
        sleep(SECOND).await;
        let asked = commands(&server) - before;
        assert!((10..=22).contains(&asked), "{asked} commands in a second");
        let released = Instant::now();
        drop(held);
        let (got, permit) = waiter.await.expect("no panic");
        late.push(got - released);
        assert!(permit.release().await.expect("the backend replies"));
    }
    println!("a release is heard of after {late:.1?}");
    assert!(late.iter().all(|late| *late < SECOND / 2), "{late:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiters_of_two_servers_are_served_in_order_of_arrival() {
    let server = RedisServer::start();
    let servers = [server_of(&server, 1).await, server_of(&server, 1).await];
    let held = servers[0].try_acquire(&ann(), 1).await.expect("free");
    let (order, mut tasks) = (Arc::new(Mutex::new(Vec::new())), JoinSet::new());
    for number in 0..12 {
        // Not alternating: 0 0 1 1 0 0 1 1
        let semaphore = servers[number / 2 % 2].clone();
        let order = Arc::clone(&order);
        tasks.spawn(async move {
            let permit = semaphore.acquire(&ann(), 1, 20 * SECOND).await;
            let permit = permit.expect("in time");
            order.lock().push(number);
            sleep(Duration::from_millis(70)).await;
            drop(permit);
        });
        sleep(Duration::from_millis(20)).await;
    }
    drop(held);
    tasks.join_all().await;
    assert_eq!(*order.lock(), (0..12).collect::<Vec<_>>());
    // The last release is in flight.
    let since = Instant::now();
    while !server.keys().is_empty() {
        assert!(since.elapsed() < 5 * SECOND, "{:?}", server.keys());
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_queue_head_delays_others_by_at_most_a_second() {
    let server = RedisServer::start();
    let semaphore = server_of(&server, 1).await;
    let held = semaphore.try_acquire(&ann(), 1).await.expect("free");
    let op = PermitOp::Wait {
        id: PermitId::random(),
        weight: 1,
        waited: 5 * SECOND,
    };
    let Answer::Later(denied) = semaphore.backend().ask(op, semaphore.policy(), &ann()) else {
        panic!("Redis answers");
    };
    assert!(
        !denied
            .await
            .expect("the backend replies")
            .decision
            .is_allowed()
    );
    drop(held);
    let since = Instant::now();
    let permit = semaphore
        .acquire(&ann(), 1, 20 * SECOND)
        .await
        .expect("in time");
    println!("the waiter was forgotten after {:.2?}", since.elapsed());
    assert!(since.elapsed() < 3 * SECOND);
    // `try_acquire` ignores the queue.
    drop(permit);
}

/// `tasks` tasks on each of several servers acquire, hold for `hold`, and repeat. Returns the end and the length of
/// each wait.
async fn fair_load(
    server: &RedisServer,
    servers: usize,
    tasks: usize,
    hold: Duration,
    time: Duration,
) -> Vec<(Duration, Duration)> {
    let mut all = JoinSet::new();
    let start = Instant::now();
    for _ in 0..servers {
        let semaphore = server_of(server, 5).await;
        for _ in 0..tasks {
            let semaphore = semaphore.clone();
            all.spawn(async move {
                let mut waits = Vec::new();
                while start.elapsed() < time {
                    let asked = Instant::now();
                    let permit = semaphore.acquire(&ann(), 1, MaxWait::Unbounded).await;
                    let permit = permit.expect("the wait is unbounded");
                    waits.push((start.elapsed(), asked.elapsed()));
                    sleep(hold).await;
                    drop(permit);
                }
                waits
            });
        }
    }
    all.join_all().await.concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fair_load_bounds_waits_and_commands() {
    let server = RedisServer::start();
    for load in [(4, 16, 10), (8, 2, 20), (6, 4, 100)] {
        // A machine that paused for a moment distorts the measurement.
        let mut fair = false;
        for _ in 0..3 {
            if !fair {
                fair = check_fair_load(&server, load).await;
            }
        }
        assert!(
            fair,
            "{load:?}: a waiter waited for more than twice the average"
        );
    }
}

/// Several servers with several tasks each that hold a permit for `hold` ms.
async fn check_fair_load(
    server: &RedisServer,
    (servers, tasks, hold): (usize, usize, u64),
) -> bool {
    let (hold, before) = (Duration::from_millis(hold), commands(server));
    let time = 4 * SECOND;
    let all = fair_load(server, servers, tasks, hold, time).await;
    let sent = commands(server) - before;
    // The first waits, without competition, do not count.
    let usual = all.iter().filter(|(ended, _)| *ended > time / 4);
    let usual: Vec<_> = usual.map(|(_, wait)| *wait).collect();
    let mean = usual.iter().sum::<Duration>() / u32::try_from(usual.len()).expect("fits");
    let longest = usual.iter().max().copied().expect("some");
    // Each visit sends an acquire and a release. Waiters sent the other commands.
    let looks = sent.saturating_sub(2 * all.len() as u64);
    let waited: Duration = all.iter().map(|(_, wait)| *wait).sum();
    println!(
        "{servers} servers x {tasks} tasks, 5 permits held for {hold:?}: {} waits, mean {mean:.1?}, longest {longest:.1?} ({:.2} \
         x), {looks} looks in {waited:.0?} of waiting: one in {:.0?}",
        all.len(),
        longest.as_secs_f64() / mean.as_secs_f64(),
        waited / u32::try_from(looks).expect("fits").max(1),
    );
    // And the first command of each task.
    let most = waited.as_millis() / TIME_OF_ONE.as_millis() + (servers * tasks) as u128;
    assert!(
        u128::from(looks) <= most,
        "{looks} checks of waiters, at most {most}"
    );
    longest <= 2 * mean
}
