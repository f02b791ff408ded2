//! A steady load of checks, and the account of their outcomes.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tower_sluice::backend::BackendErrorKind;
use tower_sluice::{Key, Limiter, Policy, Quota, RedisBackend};

/// The number of keys, and the number of tasks that check them.
pub(crate) const KEYS: usize = 120;
const TASKS: usize = 24;
/// The pause of a task between two checks.
const PAUSE: Duration = Duration::from_millis(10);
/// A limit that no key reaches.
const LIMIT: u64 = 1_000_000;
/// The time limit of a check, and the longest delay by a busy machine.
const LONGEST: Duration = Duration::from_millis(250 + 1_000);

/// The outcomes of the checks of one key.
#[derive(Clone, Debug, Default)]
struct Account {
    allowed: u64,
    /// Checks whose reply is missing. They may have charged.
    unknown: u64,
    /// Checks that charged nothing.
    failed: BTreeMap<String, u64>,
    answered: Option<Instant>,
    silence: Duration,
    /// Checks that took longer than their time limit.
    late: u64,
}

/// The account of a load.
#[derive(Debug)]
pub(crate) struct Report {
    what: String,
    pub(crate) checks: u64,
    pub(crate) unknown: u64,
    pub(crate) failed: BTreeMap<String, u64>,
    /// Checks without an answer or a failure in time.
    pub(crate) unanswered: u64,
    /// The longest time for which a key got no answer, and the number of keys with a silence of more than a second.
    pub(crate) silence: Duration,
    pub(crate) silent_keys: usize,
    /// Charges that the servers have lost.
    pub(crate) forgotten: u64,
    /// Charges that no check has made.
    pub(crate) double: u64,
    lasted: Duration,
}

impl Report {
    /// Checks in a second.
    pub(crate) fn rate(&self) -> f64 {
        self.checks as f64 / self.lasted.as_secs_f64()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} checks at {:.0}/s, {} unanswered, {} of unknown outcome, failed {:?}; longest silence {:.2?}, {} of {KEYS} keys silent for over 1 s; {} charges forgotten, {} double",
            self.what,
            self.checks,
            self.rate(),
            self.unanswered,
            self.unknown,
            self.failed,
            self.silence,
            self.silent_keys,
            self.forgotten,
            self.double
        )
    }
}

fn policy() -> Policy {
    // A window starts at a multiple of its length since the epoch, and this one lasts for weeks.
    Policy::new(
        "load",
        Quota::fixed_window(LIMIT, Duration::from_secs(100 * 86_400)),
    )
}

pub(crate) fn key(index: usize) -> Key {
    Key::from(index as u64)
}

/// The name of the key in Redis, without its suffix.
pub(crate) fn name(index: usize) -> String {
    format!("{{sluice:load:r{index}}}")
}

/// The duration of a load before and after its event.
fn steady() -> Duration {
    let seconds = std::env::var("SLUICE_TOPOLOGY_SECONDS");
    seconds.map_or(Duration::from_millis(250), |seconds| {
        Duration::from_secs_f64(seconds.parse().expect("a number of seconds"))
    })
}

/// Sends checks while `during` runs, and returns the account.
pub(crate) async fn under_load<T>(
    what: &str,
    backend: &RedisBackend,
    during: impl Future<Output = T>,
) -> (Report, T) {
    let limiter = Limiter::new(policy(), backend.clone());
    let before = consumed(&limiter).await;
    let accounts: Arc<Vec<Mutex<Account>>> =
        Arc::new((0..KEYS).map(|_| Mutex::default()).collect());
    let (mut tasks, start) = (JoinSet::new(), Instant::now());
    for task in 0..TASKS {
        let (limiter, accounts) = (limiter.clone(), Arc::clone(&accounts));
        tasks.spawn(async move {
            for index in (task..).step_by(TASKS).map(|index| index % KEYS) {
                ask(&limiter, index, &accounts[index]).await;
                sleep(PAUSE).await;
            }
        });
    }
    // Connects, and lets every key have an answer.
    sleep(steady()).await;
    let done = during.await;
    sleep(steady()).await;
    tasks.shutdown().await;
    let lasted = start.elapsed();
    // A check that was aborted may charge within its time limit.
    sleep(Duration::from_millis(300)).await;
    let after = consumed(&limiter).await;
    let mut report = Report {
        what: what.to_owned(),
        checks: 0,
        unknown: 0,
        failed: BTreeMap::new(),
        unanswered: 0,
        silence: Duration::ZERO,
        silent_keys: 0,
        forgotten: 0,
        double: 0,
        lasted,
    };
    for (index, account) in accounts.iter().enumerate() {
        let account = account.lock().clone();
        let consumed = after[index].saturating_sub(before[index]);
        // Each task had at most one check in flight when it was aborted.
        let aborted = 1;
        report.double += consumed.saturating_sub(account.allowed + account.unknown + aborted);
        report.forgotten += (before[index] + account.allowed).saturating_sub(after[index]);
        report.checks += account.allowed + account.unknown + account.failed.values().sum::<u64>();
        report.unknown += account.unknown;
        report.unanswered += account.late;
        report.silence = report.silence.max(account.silence);
        report.silent_keys += usize::from(account.silence > Duration::from_secs(1));
        for (kind, count) in account.failed {
            *report.failed.entry(kind).or_default() += count;
        }
    }
    println!("{report}");
    (report, done)
}

async fn ask(limiter: &Limiter<RedisBackend>, index: usize, account: &Mutex<Account>) {
    let start = Instant::now();
    let outcome = limiter.check(&key(index), 1).await;
    let mut account = account.lock();
    account.late += u64::from(start.elapsed() > LONGEST);
    match outcome {
        Ok(reply) => {
            assert!(reply.decision.is_allowed());
            account.allowed += 1;
            let now = Instant::now();
            if let Some(before) = account.answered.replace(now) {
                account.silence = account.silence.max(now - before);
            }
        }
        Err(error) => match error.kind() {
            BackendErrorKind::Lost | BackendErrorKind::Timeout(_) => account.unknown += 1,
            kind => *account.failed.entry(format!("{kind:?}")).or_default() += 1,
        },
    }
}

/// The tokens that each key has spent.
async fn consumed(limiter: &Limiter<RedisBackend>) -> Vec<u64> {
    let start = Instant::now();
    let spent = (0..KEYS).map(async |index| {
        let snapshot = loop {
            match limiter.peek(&key(index)).await {
                Ok(snapshot) => break snapshot,
                Err(error) => {
                    assert!(start.elapsed() < Duration::from_secs(20), "{error:?}");
                    sleep(Duration::from_millis(50)).await;
                }
            }
        };
        LIMIT - snapshot.remaining()
    });
    join_all(spent).await
}

/// The time until every key has an answer again.
pub(crate) async fn recovery(backend: &RedisBackend) -> Duration {
    let (limiter, start) = (Limiter::new(policy(), backend.clone()), Instant::now());
    for index in 0..KEYS {
        while let Err(error) = limiter.peek(&key(index)).await {
            assert!(start.elapsed() < Duration::from_secs(30), "{error:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }
    start.elapsed()
}
