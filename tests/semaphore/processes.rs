//! Processes that hold permits are killed, paused, or ask concurrently. The test binary starts itself again as these
//! processes.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use redis::AsyncCommands;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tower_sluice::{Key, MaxWait, RedisBackend, RedisSemaphore, Semaphore, SemaphorePolicy};

use crate::support::redis::RedisServer;

/// The task of a child: a word, and the URL of the server.
const TASK: &str = "SLUICE_SEMAPHORE_CHILD";
const LEASE: Duration = Duration::from_millis(1_500);
const SECOND: Duration = Duration::from_secs(1);
/// How long all processes ask.
const RUN: Duration = Duration::from_secs(20);
const PROCESSES: usize = 8;
const TASKS: usize = 32;

async fn connect(url: &str, permits: SemaphorePolicy) -> Semaphore<RedisSemaphore> {
    // A busy machine is not a failure.
    let builder = RedisBackend::builder().time_limit(10 * SECOND);
    let redis = builder.connect(url).await.expect("the server runs");
    Semaphore::new(permits, RedisSemaphore::new(&redis))
}

fn leased(capacity: u32) -> SemaphorePolicy {
    SemaphorePolicy::new("exports", capacity).with_lease(LEASE)
}

fn ann() -> Key {
    Key::from("ann")
}

/// A process of this binary, and its output.
struct Process {
    child: Child,
    says: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(task: &str, server: &RedisServer) -> Self {
        let binary = std::env::current_exe().expect("the server runs");
        let mut child = Command::new(binary)
            .args([
                "processes::child",
                "--exact",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(TASK, format!("{task} {}", server.url()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this binary");
        let says = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, says }
    }

    /// The next line that the child writes for this test, not for its test runner.
    fn read_line(&mut self) -> String {
        for queue in self.says.by_ref() {
            if let Some((_, said)) = queue.expect("text").split_once("child: ") {
                return said.to_owned();
            }
        }
        panic!("the task has ended");
    }

    fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("sh")
            .args(["-c", "kill $0 $1", signal, &id])
            .status();
        assert!(sent.expect("a shell").success(), "kill {signal}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn print_line(what: &str) {
    println!("child: {what}");
    let _ = std::io::stdout().flush();
}

/// The task of a started process. As a test it does nothing.
#[test]
fn child() {
    let Ok(task) = std::env::var(TASK) else {
        return;
    };
    let (task, url) = task.split_once(' ').expect("two words");
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    match task {
        "three" => runtime.block_on(three(url)),
        "one" => runtime.block_on(one(url)),
        "inside" => runtime.block_on(inside(url)),
        other => panic!("no such task: {other}"),
    }
}

/// Holds three permits until it is killed.
async fn three(url: &str) {
    let semaphore = connect(url, leased(5)).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(semaphore.try_acquire(&ann(), 1).await.expect("free"));
    }
    print_line("held");
    sleep(600 * SECOND).await;
}

/// Holds one permit until it is lost, then releases the lost permit.
async fn one(url: &str) {
    let semaphore = connect(url, leased(1)).await;
    let permit = semaphore.try_acquire(&ann(), 1).await.expect("free");
    print_line("held");
    permit.lost().await;
    print_line("lost");
    let released = permit.release().await.expect("the backend replies");
    print_line(&format!("released {released}"));
    sleep(600 * SECOND).await;
}

/// Many tasks enter as often as they can, and count themselves with a separate counter.
async fn inside(url: &str) {
    let semaphore = connect(url, SemaphorePolicy::new("exports", 5)).await;
    let client = redis::Client::open(url).expect("a URL");
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    let counter = client
        .get_multiplexed_async_connection_with_config(&config)
        .await;
    let counter = counter.expect("the server runs");
    print_line("ready");
    let mut queue = String::new();
    let _ = std::io::stdin().read_line(&mut queue);
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let (semaphore, mut counter) = (semaphore.clone(), counter.clone());
        tasks.spawn(async move {
            let (mut most, mut waits) = (0, Vec::new());
            while start.elapsed() < RUN {
                let asked = Instant::now();
                let permit = semaphore.acquire(&ann(), 1, MaxWait::Unbounded).await;
                let permit = permit.expect("the wait is unbounded");
                waits.push(asked.elapsed().as_micros());
                let inside: i64 = counter.incr("inside", 1).await.expect("the server runs");
                most = inside.max(most);
                sleep(Duration::from_millis(rand::random_range(0..5))).await;
                let _: i64 = counter.decr("inside", 1).await.expect("the server runs");
                drop(permit);
            }
            (most, waits)
        });
    }
    let (mut most, mut waits) = (0, Vec::new());
    for (own, more) in tasks.join_all().await {
        most = own.max(most);
        waits.extend(more);
    }
    let (sum, longest) = (waits.iter().sum::<u128>(), waits.iter().max().copied());
    print_line(&format!(
        "{most} {} {sum} {}",
        waits.len(),
        longest.unwrap_or(0)
    ));
    // The releases are in flight.
    sleep(SECOND / 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn permits_of_a_killed_process_return_after_their_lease() {
    let server = RedisServer::start();
    let semaphore = connect(&server.url(), leased(5)).await;
    let _ = semaphore.peek(&ann()).await.expect("the server runs");
    let mut process = Process::start("three", &server);
    assert_eq!(process.read_line(), "held");
    // Longer than a lease: the permits are renewed.
    sleep(2 * LEASE).await;
    let look = || async { semaphore.peek(&ann()).await.expect("the backend replies") };
    assert_eq!(look().await.remaining(), 2);

    process.signal("-KILL");
    let _ = process.child.wait();
    let killed = Instant::now();
    let snapshot = look().await;
    let reported = snapshot.reset_after();
    assert_eq!(snapshot.remaining(), 2);
    assert!(
        reported > LEASE / 2,
        "the leases were renewed recently: {reported:?}"
    );
    let all = {
        let semaphore = semaphore.clone();
        tokio::spawn(async move {
            let all = semaphore.acquire(&ann(), 5, 2 * LEASE).await;
            (killed.elapsed(), all.expect("in time"))
        })
    };
    let mut back = Duration::ZERO;
    while !all.is_finished() {
        let now = look().await.remaining();
        back = killed.elapsed();
        // The reported wait is the end of the last lease. Leases of an earlier renewal end a little sooner.
        assert!(
            now <= 2 || back + LEASE / 12 >= reported,
            "released too early: {back:?} of {reported:?}"
        );
        sleep(Duration::from_millis(5)).await;
    }
    let (got, all) = all.await.expect("no panic");
    println!(
        "reported {reported:.3?}, released after {got:.3?} ({back:.3?}), of a lease of {LEASE:?}"
    );
    assert!(
        got >= reported - SECOND / 100 && got <= LEASE + SECOND,
        "{got:?}"
    );
    assert!(all.release().await.expect("the backend replies"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_holder_loses_its_permit_after_its_lease() {
    let server = RedisServer::start();
    let semaphore = connect(&server.url(), leased(1)).await;
    let mut process = Process::start("one", &server);
    assert_eq!(process.read_line(), "held");
    assert!(semaphore.try_acquire(&ann(), 1).await.is_err());
    process.signal("-STOP");
    let stopped = Instant::now();
    let permit = semaphore.acquire(&ann(), 1, 3 * LEASE).await;
    let permit = permit.expect("its lease ends");
    let took = stopped.elapsed();
    assert!(took > LEASE / 2 && took < LEASE + SECOND, "{took:?}");
    process.signal("-CONT");
    let resumed = Instant::now();
    assert_eq!(process.read_line(), "lost");
    println!("reported {:.2?} after it resumed", resumed.elapsed());
    assert!(resumed.elapsed() < 2 * SECOND);
    assert_eq!(process.read_line(), "released false");
    let snapshot = semaphore.peek(&ann()).await.expect("the backend replies");
    assert_eq!(snapshot.remaining(), 0);
    assert!(!permit.is_lost() && permit.release().await.expect("the backend replies"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_processes_never_exceed_the_capacity() {
    let server = RedisServer::start();
    let mut all: Vec<_> = (0..PROCESSES)
        .map(|_| Process::start("inside", &server))
        .collect();
    for process in &mut all {
        assert_eq!(process.read_line(), "ready");
    }
    for process in &mut all {
        let mut start = process.child.stdin.take().expect("piped");
        start.write_all(b"go\n").expect("the receiver is open");
    }
    let (mut most, mut count, mut sum, mut longest) = (0, 0, 0, 0);
    for process in &mut all {
        let said = process.read_line();
        let numbers: Vec<u64> = said
            .split(' ')
            .map(|n| n.parse().expect("a number"))
            .collect();
        most = most.max(numbers[0]);
        (count, sum) = (count + numbers[1], sum + numbers[2]);
        longest = longest.max(numbers[3]);
    }
    let commands = server.calls("evalsha");
    println!(
        "at most {most} inside, {count} visits; mean wait {} ms, longest {} ms; {commands} commands in {RUN:?}",
        sum / count / 1_000,
        longest / 1_000
    );
    assert_eq!(most, 5, "the most permits in use must be the capacity");
    assert_eq!(server.get::<i64>(&["GET", "inside"]), 0);
    drop(all);
    // Each visit sends an acquire and a release. Each waiter sends one more command in 50 ms.
    let looks = u128::from(commands.saturating_sub(2 * count));
    let most = u128::from(sum) / 50_000 + (PROCESSES * TASKS) as u128;
    assert!(looks <= most, "{looks} checks of waiters, at most {most}");
}
