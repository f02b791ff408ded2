//! What waiters leave behind, tried with random quotas, costs and departures: nothing that was not spent, and nothing
//! made.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestCaseResult};
use tower_sluice::algorithm::{self, State};
use tower_sluice::clock::{Clock, Timestamp};
use tower_sluice::limiter::Rejected;
use tower_sluice::{Cost, Decision, Key, Policy, Quota, Reservation, RetryAfter, Snapshot};

use crate::crowd::us;
use crate::property::{Seen, try_all};
use crate::queue::TestQueue;

const SEEDS: &str = "tests/waits.proptest-regressions";

/// Clients, each with a line of its own.
const KEYS: usize = 3;

/// The most steps of one case. In 256 cases more than 10 000 come.
const STEPS: usize = 160;

fn for_all<S>(strategy: S, property: impl Fn(S::Value, &Seen) -> TestCaseResult) -> Seen
where
    S: Strategy,
    S::Value: std::fmt::Debug,
{
    try_all(SEEDS, Config::default().cases, strategy, property)
}

#[derive(Clone, Debug)]
enum Step {
    /// Somebody waits, for up to so many µs.
    Join {
        key: usize,
        cost: u64,
        max_wait: u64,
    },
    /// One of those who wait goes away.
    Leave(Index),
    /// The last of those who wait goes away.
    LeaveLast,
    /// One goes away when its time has come, and so many µs later, without having noticed.
    LeaveLate(Index, u64),
    Pass(u64),
    /// Somebody who does not wait.
    Check {
        key: usize,
        cost: u64,
    },
}

fn step(span: u64) -> impl Strategy<Value = Step> {
    let key = || 0..KEYS;
    let cost = || 0..=255_u64;
    prop_oneof![
        16 => (key(), cost(), prop_oneof![0..=2 * span, 0..=20 * span])
            .prop_map(|(key, cost, max_wait)| Step::Join { key, cost, max_wait }),
        3 => any::<Index>().prop_map(Step::Leave),
        2 => Just(Step::LeaveLast),
        1 => (any::<Index>(), 0..=span.div_ceil(3)).prop_map(|(which, late)| Step::LeaveLate(which, late)),
        4 => (0..=span.div_ceil(3)).prop_map(Step::Pass),
        1 => (key(), cost()).prop_map(|(key, cost)| Step::Check { key, cost }),
    ]
}

/// A cost for a limit: rarely nothing, rarely too much.
const fn tokens(cost: u64, limit: u64) -> u64 {
    match cost {
        0..4 => 0,
        4..8 => limit + 1,
        _ => 1 + cost % limit,
    }
}

fn least_limit(policy: &Policy) -> u64 {
    let limits = policy.quotas().iter().map(|named| named.quota().limit());
    limits.min().expect("one at least")
}

/// The states of one key, changed by nothing but what is known to have been done.
#[derive(Clone)]
struct Books {
    policy: Policy,
    states: Vec<Option<State>>,
}

impl Books {
    fn of(policy: &Policy) -> Self {
        Self {
            policy: policy.clone(),
            states: vec![None; policy.quotas().len()],
        }
    }

    fn check(&mut self, now: Timestamp, cost: u64) -> Decision {
        algorithm::check(&self.policy, &mut self.states, now, Cost::new(cost)).decision
    }

    fn look(&self, now: Timestamp) -> Decision {
        self.clone().check(now, 0)
    }
}

fn key(number: usize) -> Key {
    Key::from(u64::try_from(number).expect("few"))
}

fn peek(queue: &TestQueue, number: usize) -> Snapshot {
    use futures_util::FutureExt;
    let key = key(number);
    let peeked = queue.limiter.peek(&key).now_or_never();
    let Ok(snapshot) = peeked.expect("memory answers at once");
    snapshot
}

/// A charge to a bucket, in the order of the charges: when its owner may go, and whether he went.
#[derive(Debug)]
struct Charged {
    who: Option<usize>,
    moment: u64,
    cost: u64,
    went: bool,
}

#[derive(Debug)]
struct Bucket {
    capacity: u64,
    refill: u64,
    period: u64,
    ticks: bool,
}

impl Bucket {
    fn quota(&self) -> Quota {
        let span = us(self.period);
        match self.ticks {
            true => Quota::interval_bucket(self.capacity, self.refill, span),
            false => Quota::token_bucket(self.capacity, self.refill, span),
        }
    }

    /// No span has seen more than it may (SEMANTICS, rule 3.7), at the moments of the reservations.
    fn bounds(&self, charges: &[Charged]) -> TestCaseResult {
        let mut went: Vec<_> = charges.iter().filter(|charged| charged.went).collect();
        went.sort_by_key(|charged| charged.moment);
        for (index, first) in went.iter().enumerate() {
            let mut sum = 0;
            for last in &went[index..] {
                sum += u128::from(last.cost);
                let beyond = sum.saturating_sub(self.capacity.into());
                // Moments are rounded up to whole µs, each by less than one.
                let span = u128::from(last.moment - first.moment) + 1;
                let refilled = match self.ticks {
                    true => span.div_ceil(u128::from(self.period)) * u128::from(self.refill),
                    false => (span * u128::from(self.refill)).div_ceil(u128::from(self.period)),
                };
                prop_assert!(
                    beyond <= refilled,
                    "{} from {} to {}",
                    sum,
                    first.moment,
                    last.moment
                );
            }
        }
        Ok(())
    }
}

#[test]
fn dropped_bucket_waiters_leave_a_correct_state() {
    let bucket = || {
        let parts = (1..=6_u64, 1..=6_u64, 1..=200_u64, any::<bool>());
        parts.prop_map(|(capacity, refill, period, ticks)| Bucket {
            capacity,
            refill,
            period,
            ticks,
        })
    };
    // Several buckets at a time only where all of them refill steadily.
    let buckets = prop_oneof![
        2 => bucket().prop_map(|bucket| vec![bucket]),
        1 => vec(bucket(), 2..=3).prop_map(|mut buckets| {
            buckets.iter_mut().for_each(|bucket| bucket.ticks = false);
            buckets
        }),
    ];
    let case = buckets.prop_flat_map(|buckets| {
        let span = buckets.iter().map(|bucket| bucket.period).max();
        let steps = vec(step(span.expect("one at least")), 1..=STEPS);
        (Just(std::sync::Arc::new(buckets)), steps, any::<u64>())
    });
    let seen = for_all(case, |(buckets, steps, seed), seen| {
        let named = buckets.iter().enumerate();
        let named = named.map(|(index, bucket)| (index.to_string(), bucket.quota()));
        let policy = Policy::try_from_quotas("books", named).expect("1 to 3 quotas");
        let mut queue = TestQueue::of(&policy).in_disorder(seed);
        let mut books: [Books; KEYS] = std::array::from_fn(|_| Books::of(&policy));
        let mut reservations = BTreeMap::new();
        let mut charges: [Vec<Charged>; KEYS] = Default::default();
        // Cancelled reservations that stay charged for the time being, and when they are due.
        let mut unreturned: [Vec<(usize, Timestamp, Reservation)>; KEYS] = Default::default();
        let mut is_late = false;
        for step in steps {
            let now = queue.clock.now();
            match step {
                Step::Join {
                    key: number,
                    cost,
                    max_wait,
                } => {
                    seen.note("joined");
                    let cost = tokens(cost, least_limit(&policy));
                    let states = &mut books[number].states;
                    let max_wait = us(max_wait);
                    let reply = algorithm::reserve(&policy, states, now, Cost::new(cost), max_wait);
                    let wait = queue.wait_for(&key(number), cost, max_wait);
                    let who = queue.crowd.join(wait);
                    if !reply.decision.is_allowed() {
                        let rejected = queue.crowd.ended.pop().expect("at once").outcome;
                        prop_assert_eq!(rejected.err(), Some(Rejected::Denied(reply.decision)));
                        seen.note("refused");
                        continue;
                    }
                    if cost > 0 {
                        charges[number].push(Charged {
                            who: Some(who),
                            moment: now.after(reply.wait).as_micros(),
                            cost,
                            went: false,
                        });
                    }
                    reservations.insert(who, (number, now, reply));
                }
                Step::Leave(_) | Step::LeaveLast | Step::LeaveLate(..) => {
                    let waiting = queue.crowd.waiting();
                    let Some(last) = waiting.last() else { continue };
                    let who = match &step {
                        Step::Leave(index) | Step::LeaveLate(index, _) => *index.get(&waiting),
                        _ => *last,
                    };
                    let (number, asked, reply) = reservations.remove(&who).expect("it has a turn");
                    if let Step::LeaveLate(_, late) = step {
                        let time = asked.after(reply.wait + us(late)).max(now);
                        is_late |= time > now;
                        queue.clock.jump(us(time.as_micros() - crate::crowd::START));
                        seen.note("left late");
                    }
                    prop_assert!(queue.crowd.leave(who));
                    let reservation = reply.reservation.expect("it waits");
                    let (now, states) = (queue.clock.now(), &mut books[number].states);
                    let due = asked.after(reply.wait);
                    let mut cancelled = vec![(who, due, reservation)];
                    unreturned[number].retain(|(_, due, _)| *due > now);
                    let mut is_retry = false;
                    while let Some((who, due, reservation)) = cancelled.pop() {
                        if !algorithm::cancel(&policy, states, now, &reservation).returned {
                            seen.note("passes unused");
                            unreturned[number].extend((due > now).then_some((
                                who,
                                due,
                                reservation,
                            )));
                            continue;
                        }
                        let place = charges[number].iter().position(|c| c.who == Some(who));
                        let place = place.expect("it was charged");
                        prop_assert_eq!(place + 1, charges[number].len(), "it was the last");
                        charges[number].remove(place);
                        seen.note(if is_retry {
                            "given back later"
                        } else {
                            "given back"
                        });
                        is_retry = true;
                        // Whichever can go back now.
                        cancelled.append(&mut unreturned[number]);
                    }
                    queue.crowd.run();
                }
                Step::Pass(span) => queue.crowd.until(queue.clock.passed() + us(span)),
                Step::Check { key: number, cost } => {
                    let cost = tokens(cost, least_limit(&policy));
                    let allowed = books[number].check(now, cost).is_allowed();
                    let limiter = &queue.limiter;
                    let backend = limiter.backend();
                    prop_assert_eq!(backend.check(&policy, &key(number), cost), allowed);
                    if allowed && cost > 0 {
                        charges[number].push(Charged {
                            who: None,
                            moment: now.as_micros(),
                            cost,
                            went: true,
                        });
                    }
                }
            }
            went(
                &mut queue,
                &mut reservations,
                &mut charges,
                &mut is_late,
                seen,
            )?;
            let now = queue.clock.now();
            for (number, books) in books.iter().enumerate() {
                let look = books.look(now);
                prop_assert_eq!(&peek(&queue, number), look.snapshot());
            }
            prop_assert_eq!(queue.waiting(), queue.crowd.waiting().len());
        }
        // All that still wait go at their times, and then nothing is left.
        let ends = reservations
            .values()
            .map(|(_, asked, reply)| asked.after(reply.wait));
        if let Some(end) = ends.max().filter(|end| *end > queue.clock.now()) {
            queue.crowd.until(us(end.as_micros() - crate::crowd::START));
        }
        went(
            &mut queue,
            &mut reservations,
            &mut charges,
            &mut is_late,
            seen,
        )?;
        prop_assert!(reservations.is_empty() && queue.crowd.waiting().is_empty());
        prop_assert_eq!(queue.waiting(), 0);
        for (number, charges) in charges.iter().enumerate() {
            buckets
                .iter()
                .try_for_each(|bucket| bucket.bounds(charges))?;
            let quotas = |queue: &TestQueue| peek(queue, number).quotas().to_vec();
            let rest = quotas(&queue).iter().map(|quota| quota.reset_after()).max();
            queue
                .clock
                .jump(queue.clock.passed() + rest.expect("one at least"));
            for quota in quotas(&queue) {
                prop_assert_eq!(quota.remaining(), quota.limit());
                prop_assert_eq!(quota.reset_after(), Duration::ZERO);
            }
        }
        let context = queue.context();
        prop_assert_eq!(
            (
                context.background_tasks(),
                context.failed_background_tasks()
            ),
            (0, 0)
        );
        Ok(())
    });
    seen.at_least(10_000, &["joined"]);
    seen.at_least(50, &["given back later"]);
    seen.at_least(
        400,
        &[
            "waited",
            "at once",
            "refused",
            "given back",
            "passes unused",
            "left late",
        ],
    );
}

type Turns = BTreeMap<usize, (usize, Timestamp, tower_sluice::backend::Reply)>;

/// Those who have gone: each at its moment, or as soon as it could notice.
fn went(
    queue: &mut TestQueue,
    reservations: &mut Turns,
    charges: &mut [Vec<Charged>; KEYS],
    is_late: &mut bool,
    seen: &Seen,
) -> TestCaseResult {
    for ended in queue.crowd.ended.drain(..) {
        let charge = ended.outcome;
        let (number, asked, reply) = reservations.remove(&ended.who).expect("it has a turn");
        let charge = match charge {
            Ok(charge) => charge,
            Err(why) => return Err(TestCaseError::fail(format!("refused later: {why:?}"))),
        };
        let asked = asked.as_micros() - crate::crowd::START;
        let moment = us(asked) + reply.wait;
        prop_assert!(ended.at == moment || *is_late && ended.at > moment);
        prop_assert_eq!(charge.waited(), ended.at - us(asked));
        prop_assert_eq!(charge.decision(), Some(reply.decision));
        seen.note(if reply.wait.is_zero() {
            "at once"
        } else {
            "waited"
        });
        let own = charges[number]
            .iter_mut()
            .find(|c| c.who == Some(ended.who));
        if let Some(own) = own {
            own.went = true;
        }
    }
    *is_late = false;
    Ok(())
}

// -- Windows

fn with_a_window() -> impl Strategy<Value = (Policy, u64)> {
    let parts = (1..=6_u64, 1..=500_u64, 0..4_u8, 1..=6_u64, 1..=100_u64);
    parts.prop_map(|(limit, window, kind, refill, period)| {
        let quota = match kind {
            0 => Quota::fixed_window(limit, us(window)),
            1 => Quota::sliding_window(limit, us(window)),
            2 => Quota::sliding_log(limit, us(window)),
            _ => Quota::token_bucket(limit, refill, us(period)),
        };
        let policy = Policy::new("window", quota);
        let policy = match kind {
            3 => policy.and("log", Quota::sliding_log(limit, us(window))),
            _ => policy,
        };
        (policy, window)
    })
}

/// One who stands in a line.
struct Standing {
    key: usize,
    asked: Timestamp,
    cost: u64,
    max_wait: Duration,
}

#[test]
fn dropped_window_waiters_leave_a_correct_queue() {
    let case = with_a_window()
        .prop_flat_map(|(policy, span)| (Just(policy), vec(step(span), 1..=STEPS), any::<u64>()));
    let seen = for_all(case, |(policy, steps, seed), seen| {
        let mut queue = TestQueue::of(&policy).in_disorder(seed);
        let mut books: [Books; KEYS] = std::array::from_fn(|_| Books::of(&policy));
        let mut standing: BTreeMap<usize, Standing> = BTreeMap::new();
        let mut last = [0; KEYS];
        for step in steps {
            let now = queue.clock.now();
            match step {
                Step::Join {
                    key: number,
                    cost,
                    max_wait,
                } => {
                    let (cost, max_wait) = (tokens(cost, least_limit(&policy)), us(max_wait));
                    let wait = queue.wait_for(&key(number), cost, max_wait);
                    let who = queue.crowd.join(wait);
                    seen.note("joined");
                    standing.insert(
                        who,
                        Standing {
                            key: number,
                            asked: now,
                            cost,
                            max_wait,
                        },
                    );
                }
                Step::Leave(_) | Step::LeaveLast | Step::LeaveLate(..) => {
                    let waiting = queue.crowd.waiting();
                    let who = match &step {
                        Step::Leave(index) if !waiting.is_empty() => *index.get(&waiting),
                        Step::LeaveLast if !waiting.is_empty() => waiting[waiting.len() - 1],
                        // The first in any line.
                        Step::LeaveLate(..) if !waiting.is_empty() => waiting[0],
                        _ => continue,
                    };
                    prop_assert!(queue.crowd.leave(who));
                    standing.remove(&who);
                    seen.note("left");
                    queue.crowd.run();
                }
                Step::Pass(span) => queue.crowd.until(queue.clock.passed() + us(span)),
                Step::Check { key: number, cost } => {
                    let cost = tokens(cost, least_limit(&policy));
                    let allowed = books[number].check(now, cost).is_allowed();
                    let backend = queue.limiter.backend();
                    prop_assert_eq!(backend.check(&policy, &key(number), cost), allowed);
                }
            }
            left_queue(&mut queue, &mut standing, &mut books, &mut last, seen)?;
            let now = queue.clock.now();
            for (number, books) in books.iter().enumerate() {
                let look = books.look(now);
                prop_assert_eq!(&peek(&queue, number), look.snapshot());
                // The first of the line waits only for what is not there.
                if let Some(first) = standing.values().find(|own| own.key == number) {
                    let decision = books.clone().check(now, first.cost);
                    prop_assert!(!decision.is_allowed());
                }
            }
            prop_assert_eq!(queue.waiting(), standing.len());
        }
        // Nobody stays longer than he wanted.
        let ends = standing.values().map(|own| own.asked.after(own.max_wait));
        if let Some(end) = ends.max() {
            queue.crowd.until(us(end.as_micros() - crate::crowd::START));
        }
        left_queue(&mut queue, &mut standing, &mut books, &mut last, seen)?;
        prop_assert!(standing.is_empty() && queue.crowd.waiting().is_empty());
        prop_assert_eq!(queue.waiting(), 0);
        Ok(())
    });
    seen.at_least(10_000, &["joined"]);
    seen.at_least(400, &["waited", "at once", "refused", "given up", "left"]);
    seen.at_least(100, &["overtakes"]);
}

/// Those who have been served, each in its order, and those who have been denied, rightly.
fn left_queue(
    queue: &mut TestQueue,
    standing: &mut BTreeMap<usize, Standing>,
    books: &mut [Books; KEYS],
    last: &mut [usize; KEYS],
    seen: &Seen,
) -> TestCaseResult {
    let limit = least_limit(queue.limiter.policy());
    for ended in queue.crowd.ended.drain(..) {
        let own = standing.remove(&ended.who).expect("it has come");
        let at = Timestamp::from_micros(crate::crowd::START).after(ended.at);
        let waited = us(at.micros_since(own.asked));
        prop_assert!(waited <= own.max_wait, "{:?}", waited);
        let stands = 0 < own.cost && own.cost <= limit && !own.max_wait.is_zero();
        match ended.outcome {
            Ok(charge) => {
                prop_assert_eq!(charge.waited(), waited);
                let mut in_front = standing.range(..ended.who).map(|(_, first)| first);
                let first = in_front.find(|first| first.key == own.key);
                if let Some(first) = first.filter(|_| stands && waited.is_zero()) {
                    // It overtakes only what it could not wait for.
                    let first = books[own.key].clone().check(at, first.cost);
                    let Some(RetryAfter::In(wait)) = first.retry_after() else {
                        return Err(TestCaseError::fail(format!("{first:?}")));
                    };
                    prop_assert!(wait > own.max_wait, "{:?}", wait);
                    seen.note("overtakes");
                }
                // By the books of what all others have spent, it may.
                let decision = books[own.key].check(at, own.cost);
                prop_assert_eq!(charge.decision(), Some(decision));
                if stands && !waited.is_zero() && waited < own.max_wait {
                    prop_assert!(ended.who >= last[own.key], "out of order");
                    last[own.key] = ended.who;
                }
                seen.note(if waited.is_zero() {
                    "at once"
                } else {
                    "waited"
                });
            }
            Err(Rejected::Denied(Decision::Deny(_, RetryAfter::In(wait)))) => {
                let left = own.max_wait - waited;
                // It may be told a wait that it could have had, but not without overtaking.
                let mut in_front = standing.range(..ended.who).map(|(_, first)| first);
                let is_behind = in_front.any(|first| first.key == own.key);
                prop_assert!(wait > left || is_behind, "{:?} of {:?}", wait, left);
                seen.note(if waited.is_zero() {
                    "refused"
                } else {
                    "given up"
                });
            }
            Err(Rejected::Denied(Decision::Deny(_, RetryAfter::Never))) => {
                prop_assert!(own.cost > limit && waited.is_zero());
            }
            Err(other) => return Err(TestCaseError::fail(format!("{other:?}"))),
        }
    }
    Ok(())
}
