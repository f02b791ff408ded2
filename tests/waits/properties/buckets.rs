//! Waiters before buckets.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use tower_sluice::algorithm;
use tower_sluice::clock::{Clock, Timestamp};
use tower_sluice::limiter::Rejected;
use tower_sluice::{Cost, Policy, Quota, Reservation};

use super::{KEYS, Model, STEPS, Step, for_all, key, least_limit, peek, step, tokens};
use crate::executor::us;
use crate::property::Coverage;
use crate::queue::TestQueue;

/// A charge of a bucket, in order of arrival: when its request may proceed, and whether it did.
#[derive(Debug)]
struct Charged {
    waiter: Option<usize>,
    moment: u64,
    cost: u64,
    proceeded: bool,
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

    /// No span exceeds its bound (SEMANTICS, rule 3.7), at the times of the reservations.
    fn bounds(&self, charges: &[Charged]) -> TestCaseResult {
        let mut proceeded: Vec<_> = charges.iter().filter(|charged| charged.proceeded).collect();
        proceeded.sort_by_key(|charged| charged.moment);
        for (index, first) in proceeded.iter().enumerate() {
            let mut sum = 0;
            for last in &proceeded[index..] {
                sum += u128::from(last.cost);
                let beyond = sum.saturating_sub(self.capacity.into());
                // Times are rounded up to whole µs, each by less than one.
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
    // Several buckets in one policy only if all of them refill steadily.
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
    let coverage = for_all(case, |(buckets, steps, seed), coverage| {
        let named = buckets.iter().enumerate();
        let named = named.map(|(index, bucket)| (index.to_string(), bucket.quota()));
        let policy = Policy::try_from_quotas("books", named).expect("1 to 3 quotas");
        let mut queue = TestQueue::of(&policy).in_disorder(seed);
        let mut models: [Model; KEYS] = std::array::from_fn(|_| Model::of(&policy));
        let mut reservations = BTreeMap::new();
        let mut charges: [Vec<Charged>; KEYS] = Default::default();
        // Cancelled reservations that stay charged for now, and when they are due.
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
                    coverage.note("joined");
                    let cost = tokens(cost, least_limit(&policy));
                    let states = &mut models[number].states;
                    let max_wait = us(max_wait);
                    let reply = algorithm::reserve(&policy, states, now, Cost::new(cost), max_wait);
                    let wait = queue.wait_for(&key(number), cost, max_wait);
                    let waiter = queue.executor.join(wait);
                    if !reply.decision.is_allowed() {
                        let rejected = queue.executor.ended.pop().expect("at once").outcome;
                        prop_assert_eq!(rejected.err(), Some(Rejected::Denied(reply.decision)));
                        coverage.note("denied");
                        continue;
                    }
                    if cost > 0 {
                        charges[number].push(Charged {
                            waiter: Some(waiter),
                            moment: now.after(reply.wait).as_micros(),
                            cost,
                            proceeded: false,
                        });
                    }
                    reservations.insert(waiter, (number, now, reply));
                }
                Step::Leave(_) | Step::LeaveLast | Step::LeaveLate(..) => {
                    let waiting = queue.executor.waiting();
                    let Some(last) = waiting.last() else { continue };
                    let waiter = match &step {
                        Step::Leave(index) | Step::LeaveLate(index, _) => *index.get(&waiting),
                        _ => *last,
                    };
                    let (number, asked, reply) = reservations
                        .remove(&waiter)
                        .expect("the waiter has a reservation");
                    if let Step::LeaveLate(_, late) = step {
                        let time = asked.after(reply.wait + us(late)).max(now);
                        is_late |= time > now;
                        queue
                            .clock
                            .jump(us(time.as_micros() - crate::executor::START));
                        coverage.note("dropped late");
                    }
                    prop_assert!(queue.executor.leave(waiter));
                    let reservation = reply.reservation.expect("the request waits");
                    let (now, states) = (queue.clock.now(), &mut models[number].states);
                    let due = asked.after(reply.wait);
                    let mut cancelled = vec![(waiter, due, reservation)];
                    unreturned[number].retain(|(_, due, _)| *due > now);
                    let mut is_retry = false;
                    while let Some((waiter, due, reservation)) = cancelled.pop() {
                        if !algorithm::cancel(&policy, states, now, &reservation).returned {
                            coverage.note("stays charged");
                            unreturned[number].extend((due > now).then_some((
                                waiter,
                                due,
                                reservation,
                            )));
                            continue;
                        }
                        let place = charges[number]
                            .iter()
                            .position(|c| c.waiter == Some(waiter));
                        let place = place.expect("the waiter was charged");
                        prop_assert_eq!(
                            place + 1,
                            charges[number].len(),
                            "only the last reservation is refunded"
                        );
                        charges[number].remove(place);
                        coverage.note(if is_retry {
                            "given back later"
                        } else {
                            "refunded"
                        });
                        is_retry = true;
                        // Reservations that can be refunded now.
                        cancelled.append(&mut unreturned[number]);
                    }
                    queue.executor.run();
                }
                Step::Pass(span) => queue.executor.until(queue.clock.passed() + us(span)),
                Step::Check { key: number, cost } => {
                    let cost = tokens(cost, least_limit(&policy));
                    let allowed = models[number].check(now, cost).is_allowed();
                    let limiter = &queue.limiter;
                    let backend = limiter.backend();
                    prop_assert_eq!(backend.check(&policy, &key(number), cost), allowed);
                    if allowed && cost > 0 {
                        charges[number].push(Charged {
                            waiter: None,
                            moment: now.as_micros(),
                            cost,
                            proceeded: true,
                        });
                    }
                }
            }
            proceeded(
                &mut queue,
                &mut reservations,
                &mut charges,
                &mut is_late,
                coverage,
            )?;
            let now = queue.clock.now();
            for (number, models) in models.iter().enumerate() {
                let look = models.look(now);
                prop_assert_eq!(&peek(&queue, number), look.snapshot());
            }
            prop_assert_eq!(queue.waiting(), queue.executor.waiting().len());
        }
        // All remaining waiters proceed at their times, and then nothing is left.
        let ends = reservations
            .values()
            .map(|(_, asked, reply)| asked.after(reply.wait));
        if let Some(end) = ends.max().filter(|end| *end > queue.clock.now()) {
            queue
                .executor
                .until(us(end.as_micros() - crate::executor::START));
        }
        proceeded(
            &mut queue,
            &mut reservations,
            &mut charges,
            &mut is_late,
            coverage,
        )?;
        prop_assert!(reservations.is_empty() && queue.executor.waiting().is_empty());
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
                context.stats().background_tasks,
                context.stats().failed_background_tasks
            ),
            (0, 0)
        );
        Ok(())
    });
    coverage.at_least(10_000, &["joined"]);
    coverage.at_least(50, &["given back later"]);
    coverage.at_least(
        400,
        &[
            "waited",
            "at once",
            "denied",
            "refunded",
            "stays charged",
            "dropped late",
        ],
    );
}

type Reservations = BTreeMap<usize, (usize, Timestamp, tower_sluice::backend::Reply)>;

/// The waiters that proceeded: each at its time, or as soon as it was polled.
fn proceeded(
    queue: &mut TestQueue,
    reservations: &mut Reservations,
    charges: &mut [Vec<Charged>; KEYS],
    is_late: &mut bool,
    coverage: &Coverage,
) -> TestCaseResult {
    for ended in queue.executor.ended.drain(..) {
        let charge = ended.outcome;
        let (number, asked, reply) = reservations
            .remove(&ended.waiter)
            .expect("the waiter has a reservation");
        let charge = match charge {
            Ok(charge) => charge,
            Err(why) => {
                return Err(TestCaseError::fail(format!(
                    "denied after its reservation: {why:?}"
                )));
            }
        };
        let asked = asked.as_micros() - crate::executor::START;
        let moment = us(asked) + reply.wait;
        prop_assert!(ended.at == moment || *is_late && ended.at > moment);
        prop_assert_eq!(charge.waited(), ended.at - us(asked));
        prop_assert_eq!(charge.decision(), Some(reply.decision));
        coverage.note(if reply.wait.is_zero() {
            "at once"
        } else {
            "waited"
        });
        let own = charges[number]
            .iter_mut()
            .find(|c| c.waiter == Some(ended.waiter));
        if let Some(own) = own {
            own.proceeded = true;
        }
    }
    *is_late = false;
    Ok(())
}
