//! Memory, scripts and the optimistic mode decide alike.

use tower_sluice::backend::redis::Atomicity;
use tower_sluice::backend::redis::adapter::RedisConnection;

use crate::backends::{EVERY_CASE, Fixture, RARE_CASES, same};
use crate::shapes::{settings, settings_of_strings};
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
            "Bucket back",
            "IntervalBucket back",
            "FixedWindow back",
            "SlidingWindow back",
            "SlidingLog back",
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
