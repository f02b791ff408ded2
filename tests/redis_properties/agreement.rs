//! Memory, scripts and the optimistic mode decide alike.

use std::time::Duration;

use tower_sluice::backend::redis::Atomicity;
use tower_sluice::backend::redis::adapter::RedisConnection;
use tower_sluice::backend::{Answer, Backend, Op, Reply};
use tower_sluice::clock::Timestamp;
use tower_sluice::{Cost, Policy, Quota};

use crate::backends::{EVERY_CASE, Fixture, RARE_CASES, same};
use crate::shapes::{TODAY, settings, settings_of_strings};
use crate::support::clock_proxy::ClockProxy;
use crate::traffic::{forward, start, traffic};
use crate::{for_all, for_some};

#[test]
fn memory_and_redis_agree_step_by_step() {
    let fixture = Fixture::new();
    let redis = Fixture::builder().from_transport(RedisConnection::new(fixture.frozen()));
    let coverage = for_all(
        (settings(), start(), forward()),
        |(setting, start, mut events), coverage| {
            if setting.limits.len() > 1 {
                // Memory may forget a bucket that owes nothing, which a quota with other numbers would notice.
                for event in &mut events {
                    event.other_numbers = false;
                }
            }
            let backends = (fixture.memory(), redis.clone());
            fixture.compare(backends, &setting, start, &events, coverage, same)
        },
    );
    coverage.at_least(20, EVERY_CASE);
    coverage.at_least(4, RARE_CASES);
}

/// Memory removes the state of a quota that owes nothing when it adds another one. Redis keeps it for a while.
#[test]
fn reservation_that_time_has_paid_has_nothing_to_return() {
    let fixture = Fixture::new();
    let redis = Fixture::builder().from_transport(RedisConnection::new(fixture.frozen()));
    let second = Duration::from_secs(1);
    for quota in [
        Quota::per_second(10),
        Quota::interval_bucket(10, 10, second),
    ] {
        let policy = Policy::new("paid", quota).and("other", Quota::per_day(10));
        let key = fixture.fresh_key();
        let returned = |backend: &dyn Fn(Op) -> Reply, others: u64| {
            fixture.clock.set(Timestamp::from_micros(TODAY));
            let (cost, max_wait) = (Cost::each([4, 0]), second);
            let reservation = backend(Op::Reserve { cost, max_wait }).reservation;
            fixture.clock.advance(second);
            assert!(
                backend(Op::Check(Cost::each([0, others])))
                    .decision
                    .is_allowed()
            );
            let reply = backend(Op::Cancel(reservation.expect("a reservation")));
            assert!(backend(Op::Reset).decision.is_allowed());
            (reply.returned, reply.decision.snapshot().remaining())
        };
        for others in [0, 1] {
            let memory = fixture.memory();
            let in_memory = |op: Op| match memory.ask(op, &policy, &key) {
                Answer::Now(Ok(reply)) => reply,
                _ => unreachable!("memory answers at once"),
            };
            let in_redis = |op: Op| match redis.ask(op, &policy, &key) {
                Answer::Now(reply) => reply.expect("an answer"),
                Answer::Later(reply) => fixture.runtime.block_on(reply).expect("an answer"),
            };
            assert_eq!(returned(&in_memory, others), (false, 10 - others));
            assert_eq!(returned(&in_redis, others), (false, 10 - others));
        }
    }
}

#[test]
fn memory_and_redis_agree_when_the_clock_moves() {
    let fixture = Fixture::new();
    let redis = Fixture::builder().from_transport(RedisConnection::new(fixture.frozen()));
    let coverage = for_all(
        (settings(), start(), traffic()),
        |(setting, start, events), coverage| {
            let redis = redis.clone();
            if setting.limits.len() == 1 {
                let backends = (fixture.memory(), redis);
                return fixture.compare(backends, &setting, start, &events, coverage, same);
            }
            fixture.compare(
                (fixture.core(), redis),
                &setting,
                start,
                &events,
                coverage,
                same,
            )
        },
    );
    coverage.at_least(20, EVERY_CASE);
    coverage.at_least(4, RARE_CASES);
    coverage.at_least(
        50,
        &[
            "denied by Bucket",
            "denied by IntervalBucket",
            "denied by FixedWindow",
            "denied by SlidingWindow",
            "denied by SlidingLog",
            "denied by Total",
            "Bucket back",
            "IntervalBucket back",
            "FixedWindow back",
            "SlidingWindow back",
            "SlidingLog back",
            "Total back",
        ],
    );
}

#[test]
fn optimistic_mode_decides_like_scripts() {
    let fixture = Fixture::new();
    let proxy = ClockProxy::to(fixture.server.port(), &fixture.clock);
    let proxy = fixture.runtime.block_on(proxy);
    let scripts = Fixture::builder().from_transport(RedisConnection::new(fixture.frozen()));
    let optimistic = Fixture::builder()
        .prefix("optimistic")
        .atomicity(Atomicity::Optimistic)
        .connect_lazy(proxy.url())
        .expect("a URL");
    let coverage = for_some(
        (settings_of_strings(), start(), traffic()),
        |(setting, start, events), coverage| {
            let backends = (scripts.clone(), optimistic.clone());
            fixture.compare(backends, &setting, start, &events, coverage, same)
        },
    );
    coverage.at_least(20, EVERY_CASE);
    coverage.at_least(4, RARE_CASES);
}
