//! One decision in memory, as users write it: the key built from a text, from an address, or prepared. The peers are
//! governor as published, governor with our hasher, and our decision over a DashMap. All run in turns in one binary.
//!
//! Run: `cargo bench --bench decision`, and with `--features metrics,tracing` for telemetry without a listener.

mod interleaved;

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use dashmap::DashMap;
use governor::clock::DefaultClock;
use governor::state::keyed::DashMapStateStore;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, Zipf};
use tower_sluice::algorithm::{self, State};
use tower_sluice::clock::{Clock, SystemClock};
use tower_sluice::{Cost, Key, Limiter, MemoryBackend, Policy, Quota};

use self::interleaved::{Subject, measure};

const TEXT: &str = "our key from a text";
const OWNED: &str = "our owned key from a text";
const ADDRESS: &str = "our key from an address";
const PREPARED: &str = "our prepared key";
const DASHMAP: &str = "our decision over a DashMap";
const GOVERNOR: &str = "governor";
const GOVERNOR_AHASH: &str = "governor with ahash";

type Governor<S> = governor::RateLimiter<String, DashMapStateStore<String, S>, DefaultClock>;

/// Keys of 16 bytes.
fn texts(count: usize) -> Vec<String> {
    (0..count).map(|key| format!("client-{key:09}")).collect()
}

fn address(key: usize) -> IpAddr {
    Ipv4Addr::from_bits(0xC633_0000 + u32::try_from(key).expect("few keys")).into()
}

/// The keys in the order of their checks, equal for every subject.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::cast_possible_truncation
)]
fn order(count: usize) -> Vec<usize> {
    if count == 1 {
        return vec![0];
    }
    let mut random = SmallRng::seed_from_u64(7);
    let zipf = Zipf::new(count as f64, 1.0).expect("valid");
    let mut places: Vec<usize> = (0..count).collect();
    for place in (1..count).rev() {
        places.swap(place, random.random_range(0..=place));
    }
    (0..1 << 20)
        .map(|_| places[zipf.sample(&mut random) as usize - 1])
        .collect()
}

/// Quotas that no run uses up, and that refill so slowly that every key owes something all the time.
fn quotas(count: usize, denied: bool) -> (Quota, governor::Quota) {
    if denied {
        let one = NonZeroU32::new(1).expect("not 0");
        return (Quota::per_hour(1), governor::Quota::per_hour(one));
    }
    // One key gets every check. Of several keys, one gets at most a seventh.
    let (tokens, seconds) = if count == 1 {
        (4_000_000_000, 1)
    } else {
        (1_000_000, 3_600)
    };
    let period = Duration::from_secs(seconds);
    let theirs = governor::Quota::with_period(period).expect("not 0");
    let burst = NonZeroU32::new(tokens).expect("not 0");
    let ours = Quota::token_bucket(u64::from(tokens), 1, period);
    (ours, theirs.allow_burst(burst))
}

fn limiter(quota: Quota) -> Limiter<MemoryBackend> {
    let most = NonZeroUsize::new(2_000_000).expect("not 0");
    let backend = MemoryBackend::builder().max_keys(most).build();
    Limiter::new(Policy::new("bench", quota), backend)
}

/// Our decision over a map that forgets nothing.
struct OverDashMap {
    policy: Policy,
    hasher: ahash::RandomState,
    states: DashMap<u64, [Option<State>; 1], ahash::RandomState>,
}

impl OverDashMap {
    fn check(&self, key: &str) -> bool {
        let print = self.hasher.hash_one(key.as_bytes());
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

/// Every key exists before: the bench measures a decision, not an insertion. Each key owes something.
fn used(limiter: &Limiter<MemoryBackend>, texts: &[String]) {
    for text in texts {
        assert!(limiter.check_now(text.as_str(), 1).decision.is_allowed());
    }
    assert_owing(limiter, texts);
}

fn assert_owing(limiter: &Limiter<MemoryBackend>, texts: &[String]) {
    for text in texts {
        let reply = limiter.check_now(text.as_str(), 0);
        let reset = reply.decision.snapshot().reset_after();
        assert!(!reset.is_zero(), "{text} owes nothing");
    }
}

fn one_thread(title: &str, count: usize, denied: bool, budget: f64) {
    let (ours, theirs) = quotas(count, denied);
    let (texts, order) = (texts(count), order(count));
    let keys: Vec<Key> = texts.iter().map(|text| Key::from(text.as_str())).collect();
    let limiters = [(); 4].map(|()| limiter(ours));
    let [by_text, by_owned, by_address, prepared] = &limiters;
    for limiter in [by_text, by_owned, prepared] {
        used(limiter, &texts);
    }
    for key in 0..count {
        let reply = by_address.check_now(&Key::from(address(key)), 1);
        assert!(reply.decision.is_allowed());
    }
    let governor: Governor<std::collections::hash_map::RandomState> =
        governor::RateLimiter::dashmap_with_hasher(theirs, Default::default());
    let with_ahash: Governor<ahash::RandomState> =
        governor::RateLimiter::dashmap_with_hasher(theirs, Default::default());
    let over_dashmap = OverDashMap {
        policy: Policy::new("bench", ours),
        hasher: ahash::RandomState::new(),
        states: DashMap::with_hasher(ahash::RandomState::new()),
    };
    for text in &texts {
        black_box(governor.check_key(text).is_ok());
        black_box(with_ahash.check_key(text).is_ok());
        black_box(over_dashmap.check(text));
    }
    let texts_ref = &texts;
    let turn = |mut at: usize| {
        let order = &order;
        move || {
            at = if at + 1 < order.len() { at + 1 } else { 0 };
            black_box(order[at])
        }
    };
    let (mut a, mut b, mut c, mut d) = (turn(0), turn(0), turn(0), turn(0));
    let (mut e, mut f, mut g) = (turn(0), turn(0), turn(0));
    let subjects = vec![
        Subject::new(TEXT, || {
            let reply = by_text.check_now(texts_ref[a()].as_str(), 1);
            assert_eq!(reply.decision.is_allowed(), !denied);
        }),
        Subject::new(OWNED, || {
            let key = Key::from(texts_ref[b()].as_str());
            black_box(by_owned.check_now(&key, 1).decision.is_allowed());
        }),
        Subject::new(ADDRESS, || {
            let key = Key::from(address(c()));
            black_box(by_address.check_now(&key, 1).decision.is_allowed());
        }),
        Subject::new(PREPARED, || {
            black_box(prepared.check_now(&keys[d()], 1).decision.is_allowed());
        }),
        Subject::new(DASHMAP, || {
            black_box(over_dashmap.check(&texts_ref[e()]));
        }),
        Subject::new(GOVERNOR, || {
            black_box(governor.check_key(&texts_ref[f()]).is_ok());
        }),
        Subject::new(GOVERNOR_AHASH, || {
            black_box(with_ahash.check_key(&texts_ref[g()]).is_ok());
        }),
    ];
    let (rounds, repetitions) = if count > 1_000 {
        (15, 400_000)
    } else {
        (150, 20_000)
    };
    let table = measure(title, rounds, repetitions, subjects);
    table.at_most(budget, TEXT, GOVERNOR);
    table.at_most(budget, OWNED, GOVERNOR);
    assert_owing(by_text, &texts);
}

/// The time of `repetitions` decisions on two threads, divided by two.
fn on_two_threads(repetitions: u64, check: &(dyn Fn() + Sync)) -> Duration {
    let barrier = Barrier::new(2);
    let run = || {
        barrier.wait();
        let start = Instant::now();
        for _ in 0..repetitions {
            check();
        }
        start.elapsed()
    };
    let longest = std::thread::scope(|scope| {
        let threads = [scope.spawn(run), scope.spawn(run)];
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .max()
    });
    longest.expect("two threads") / 2
}

fn two_threads(title: &str, denied: bool, budget: f64) {
    let (ours, theirs) = quotas(1, denied);
    let key = texts(1).remove(0);
    let limiter = limiter(ours);
    let governor: Governor<std::collections::hash_map::RandomState> =
        governor::RateLimiter::dashmap_with_hasher(theirs, Default::default());
    used(&limiter, std::slice::from_ref(&key));
    black_box(governor.check_key(&key).is_ok());
    let subjects = vec![
        Subject::timed(TEXT, |repetitions| {
            on_two_threads(repetitions, &|| {
                let key = black_box(key.as_str());
                black_box(limiter.check_now(key, 1).decision.is_allowed());
            })
        }),
        Subject::timed(GOVERNOR, |repetitions| {
            on_two_threads(repetitions, &|| {
                black_box(governor.check_key(black_box(&key)).is_ok());
            })
        }),
    ];
    let table = measure(title, 25, 200_000, subjects);
    table.at_least(budget, TEXT, GOVERNOR);
}

fn main() {
    println!(
        "features: metrics {}, tracing {}; profile: bench, thin LTO, one codegen unit",
        cfg!(feature = "metrics"),
        cfg!(feature = "tracing")
    );
    for (keys, count, allowed, denied) in [
        ("1 key", 1, 0.75, 0.85),
        ("1,000 keys", 1_000, 0.75, 0.85),
        ("1,000,000 keys", 1_000_000, 0.4, 0.6),
    ] {
        one_thread(&format!("{keys}, allowed, 1 thread"), count, false, allowed);
        one_thread(&format!("{keys}, denied, 1 thread"), count, true, denied);
    }
    two_threads("1 key, allowed, 2 threads", false, 1.8);
    two_threads("1 key, denied, 2 threads", true, 1.2);
}
