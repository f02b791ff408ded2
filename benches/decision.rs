//! One decision with a key, in memory. The peers are the same decision over DashMap, governor as published, and
//! governor with our hasher. The floor is a compare-and-swap without a key that reads the same clock. All run together,
//! so that their ratios are meaningful.
//!
//! Run: `cargo bench --bench decision`

use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use dashmap::DashMap;
use governor::clock::DefaultClock;
use governor::state::keyed::DashMapStateStore;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, Zipf};
use tower_sluice::algorithm::{self, State};
use tower_sluice::clock::{Clock, SystemClock};
use tower_sluice::{Cost, Key, Limiter, MemoryBackend, Policy, Quota};

/// Tokens that no run uses up. They refill so slowly that every key owes something, and none is forgotten.
const PLENTY: u64 = 4_000_000_000;

/// A limiter that decides by the number of a key.
trait Subject: Sync {
    fn check(&self, key: usize) -> bool;
}

struct Ours(Limiter<MemoryBackend>, Vec<Key>);

impl Ours {
    fn new(keys: &[String], quota: Quota) -> Self {
        let backend = MemoryBackend::builder()
            .max_keys(
                NonZeroU32::new(2_000_000)
                    .expect("not 0")
                    .try_into()
                    .expect("fits"),
            )
            .build();
        let keys = keys.iter().map(|key| Key::from(key.as_str())).collect();
        Self(Limiter::new(Policy::new("bench", quota), backend), keys)
    }
}

impl Subject for Ours {
    fn check(&self, key: usize) -> bool {
        self.0.check_now(&self.1[key], 1).decision.is_allowed()
    }
}

type Keyed<S> = governor::RateLimiter<String, DashMapStateStore<String, S>, DefaultClock>;

struct Governor<S: std::hash::BuildHasher + Clone>(Keyed<S>, Vec<String>);

impl<S: std::hash::BuildHasher + Clone + Default> Governor<S> {
    fn new(keys: &[String], quota: governor::Quota) -> Self {
        let limiter = governor::RateLimiter::dashmap_with_hasher(quota, S::default());
        Self(limiter, keys.to_vec())
    }
}

impl<S: std::hash::BuildHasher + Clone + Sync + Send> Subject for Governor<S> {
    fn check(&self, key: usize) -> bool {
        self.0.check_key(&self.1[key]).is_ok()
    }
}

/// Our decision over DashMap, keyed by the same fingerprint: the obvious map. It forgets nothing.
struct OverDashMap {
    policy: Policy,
    hasher: ahash::RandomState,
    states: DashMap<u64, [Option<State>; 1], ahash::RandomState>,
    keys: Vec<Key>,
}

impl OverDashMap {
    fn new(keys: &[String], quota: Quota) -> Self {
        Self {
            policy: Policy::new("bench", quota),
            hasher: ahash::RandomState::new(),
            states: DashMap::with_hasher(ahash::RandomState::new()),
            keys: keys.iter().map(|key| Key::from(key.as_str())).collect(),
        }
    }
}

impl Subject for OverDashMap {
    fn check(&self, key: usize) -> bool {
        let print = self.hasher.hash_one(self.keys[key].as_bytes());
        let now = SystemClock::new().now();
        let mut states = match self.states.get_mut(&print) {
            Some(states) => states,
            None => self.states.entry(print).or_default(),
        };
        algorithm::check(&self.policy, states.value_mut(), now, Cost::ONE)
            .decision
            .is_allowed()
    }
}

/// A bound for every limiter: one clock reading and one swap.
struct Floor(AtomicU64);

impl Subject for Floor {
    fn check(&self, _: usize) -> bool {
        let now = SystemClock::new().now().as_micros();
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |seen| {
                Some(seen.max(now) + 1)
            })
            .is_ok()
    }
}

fn names(count: usize) -> Vec<String> {
    (0..count)
        .map(|key| format!("198.51.{}.{}", key >> 8, key & 255))
        .collect()
}

/// The keys in the order of their checks, equal for every subject.
fn order(count: usize) -> Vec<usize> {
    let mut random = SmallRng::seed_from_u64(7);
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        clippy::cast_possible_truncation
    )]
    let zipf = Zipf::new(count as f64, 1.0).expect("valid");
    let mut places: Vec<usize> = (0..count).collect();
    for place in (1..count).rev() {
        places.swap(place, random.random_range(0..=place));
    }
    #[allow(clippy::cast_sign_loss, clippy::cast_possible_truncation)]
    (0..1 << 20)
        .map(|_| places[zipf.sample(&mut random) as usize - 1])
        .collect()
}

/// The time of `rounds` decisions on each of `threads` threads, divided by their number.
fn timed(subject: &dyn Subject, order: &[usize], threads: usize, rounds: u64) -> Duration {
    let run = |from: usize| {
        let mut at = from;
        for _ in 0..rounds {
            black_box(subject.check(black_box(order[at])));
            at = if at + 1 < order.len() { at + 1 } else { 0 };
        }
    };
    if threads == 1 {
        let start = Instant::now();
        run(0);
        return start.elapsed();
    }
    let barrier = std::sync::Barrier::new(threads);
    let longest = std::thread::scope(|scope| {
        let (barrier, run) = (&barrier, &run);
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    barrier.wait();
                    let start = Instant::now();
                    run(thread * order.len() / threads);
                    start.elapsed()
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().expect("no panic"))
            .max()
    });
    longest.expect("threads") / u32::try_from(threads).expect("a small number")
}

fn subjects(keys: &[String], denied: bool) -> Vec<(&'static str, Box<dyn Subject>)> {
    let (ours, theirs) = if denied {
        let one = NonZeroU32::new(1).expect("not 0");
        (Quota::per_hour(1), governor::Quota::per_hour(one))
    } else {
        let second = Duration::from_secs(1);
        let theirs = governor::Quota::with_period(second).expect("not 0");
        let plenty = NonZeroU32::new(PLENTY as u32).expect("not 0");
        (
            Quota::token_bucket(PLENTY, 1, second),
            theirs.allow_burst(plenty),
        )
    };
    vec![
        ("ours", Box::new(Ours::new(keys, ours))),
        ("DashMap", Box::new(OverDashMap::new(keys, ours))),
        (
            "governor",
            Box::new(Governor::<std::collections::hash_map::RandomState>::new(
                keys, theirs,
            )),
        ),
        (
            "governor+ahash",
            Box::new(Governor::<ahash::RandomState>::new(keys, theirs)),
        ),
        ("un-keyed CAS", Box::new(Floor(AtomicU64::new(0)))),
    ]
}

fn decisions(c: &mut Criterion) {
    for (name, count) in [("hot", 1), ("1k", 1_000), ("1M zipf", 1_000_000)] {
        let keys = names(count);
        let order = if count == 1 { vec![0] } else { order(count) };
        for (answer, denied) in [("allowed", false), ("denied", true)] {
            for threads in [1, 2] {
                let mut group = c.benchmark_group(format!("{name}, {answer}, {threads} threads"));
                group
                    .sample_size(20)
                    .warm_up_time(Duration::from_millis(300))
                    .measurement_time(Duration::from_secs(1));
                for (subject_name, subject) in subjects(&keys, denied) {
                    if denied && subject_name == "un-keyed CAS" {
                        continue;
                    }
                    // Every key exists before: the bench measures a decision, not an insertion.
                    (0..count).for_each(|key| _ = black_box(subject.check(key)));
                    group.bench_function(BenchmarkId::from_parameter(subject_name), |b| {
                        b.iter_custom(|rounds| timed(&*subject, &order, threads, rounds));
                    });
                }
                group.finish();
            }
        }
    }
}

criterion_group!(benches, decisions);
criterion_main!(benches);
