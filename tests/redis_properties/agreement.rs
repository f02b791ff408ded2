//! Memory, scripts and the optimistic mode decide alike.

use tower_sluice::backend::redis::Atomicity;
use tower_sluice::backend::redis::adapter::RedisConnection;

use crate::backends::{EVERYTHING, RARE, Stand, same};
use crate::shapes::{settings, settings_of_strings};
use crate::support::clock_proxy::ClockProxy;
use crate::traffic::{forward, start, traffic};
use crate::{for_all, for_some};

#[test]
fn memory_and_redis_agree_step_by_step() {
    let stand = Stand::new();
    let redis = Stand::builder().from_transport(RedisConnection::new(stand.frozen()));
    let seen = for_all(
        (settings(), start(), forward()),
        |(setting, start, mut events), seen| {
            if setting.limits.len() > 1 {
                // Memory may forget a bucket that owes nothing, which a quota with other numbers would notice.
                for event in &mut events {
                    event.other_numbers = false;
                }
            }
            let backends = (stand.memory(), redis.clone());
            stand.compare(backends, &setting, start, &events, seen, same)
        },
    );
    seen.at_least(20, EVERYTHING);
    seen.at_least(4, RARE);
}

#[test]
fn memory_and_redis_agree_when_the_clock_moves() {
    let stand = Stand::new();
    let redis = Stand::builder().from_transport(RedisConnection::new(stand.frozen()));
    let seen = for_all(
        (settings(), start(), traffic()),
        |(setting, start, events), seen| {
            let redis = redis.clone();
            if setting.limits.len() == 1 {
                let backends = (stand.memory(), redis);
                return stand.compare(backends, &setting, start, &events, seen, same);
            }
            stand.compare((stand.core(), redis), &setting, start, &events, seen, same)
        },
    );
    seen.at_least(20, EVERYTHING);
    seen.at_least(4, RARE);
    seen.at_least(
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
    let stand = Stand::new();
    let proxy = ClockProxy::to(stand.server.port(), &stand.clock);
    let proxy = stand.runtime.block_on(proxy);
    let scripts = Stand::builder().from_transport(RedisConnection::new(stand.frozen()));
    let optimistic = Stand::builder()
        .prefix("optimistic")
        .atomicity(Atomicity::Optimistic)
        .connect_lazy(proxy.url())
        .expect("a URL");
    let seen = for_some(
        (settings_of_strings(), start(), traffic()),
        |(setting, start, events), seen| {
            let backends = (scripts.clone(), optimistic.clone());
            stand.compare(backends, &setting, start, &events, seen, same)
        },
    );
    seen.at_least(20, EVERYTHING);
    seen.at_least(4, RARE);
}
