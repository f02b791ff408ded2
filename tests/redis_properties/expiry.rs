//! The expiry of keys changes no answer.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use tower_sluice::backend::redis::Atomicity;
use tower_sluice::backend::redis::adapter::RedisConnection;
use tower_sluice::{Quota, RedisBackend};

use crate::backends::{Fixture, same};
use crate::for_some;
use crate::shapes::{BUCKETS, Setting, expires, setting, settings, settings_of_strings};
use crate::support::clock_proxy::ClockProxy;
use crate::support::expiring::Expiring;
use crate::support::property::Coverage;
use crate::traffic::{Act, Event, forward, start};

/// Runs the traffic on a Redis whose keys expire by the crate's own rule, not by an endless `idle_ttl`.
///
/// With one quota of each name an expired key changes no reply. With several quotas the algorithms would know what a
/// faster quota has forgotten. Then keys stay, and only the expiry of each write is checked.
fn expiry_is_invisible(
    fixture: &Fixture,
    backend: &RedisBackend,
    (setting, start, mut events, forgets): (Setting, u64, Vec<Event>, bool),
    coverage: &Coverage,
) -> TestCaseResult {
    let starts_full = |quota: &Quota| !quota.to_string().contains("(initially");
    let mut quotas = setting.limits.iter().flatten().map(|limit| limit.quota);
    let forgets = forgets && quotas.all(|quota| starts_full(&quota));
    if forgets {
        coverage.note("keys expire");
        for event in &mut events {
            event.other_numbers = false;
            // A reservation of an expired key cannot be refunded, and the algorithms would refund it. No later reply
            // shows it.
            if matches!(event.act, Act::Cancel(_)) {
                event.act = Act::Check;
            }
        }
    }
    let url = fixture.server.url();
    let redis = Expiring::new(&url, backend.clone(), &fixture.clock, forgets);
    fixture.compare(
        (fixture.core(), redis),
        &setting,
        start,
        &events,
        coverage,
        same,
    )
}

#[test]
fn no_write_shortens_an_expiry_and_none_is_too_short() {
    let fixture = Fixture::new();
    let redis = RedisBackend::builder()
        .deny_cache(Duration::ZERO)
        .time_limit(Duration::from_secs(20))
        .from_transport(RedisConnection::new(fixture.frozen()));
    let settings = prop_oneof![2 => settings(), 1 => setting(BUCKETS, 1)];
    let settings = settings.prop_filter("totals", expires);
    let coverage = for_some(
        (settings, start(), forward(), any::<bool>()),
        |case, coverage| expiry_is_invisible(&fixture, &redis, case, coverage),
    );
    coverage.at_least(20, &["keys expire", "reconfigured", "penalty", "refund"]);
    coverage.at_least(10, &["cancel", "a reservation in the future"]);
}

#[test]
fn no_write_without_scripts_shortens_an_expiry_and_none_is_too_short() {
    let fixture = Fixture::new();
    let proxy = ClockProxy::to(fixture.server.port(), &fixture.clock);
    let proxy = fixture.runtime.block_on(proxy);
    let redis = RedisBackend::builder()
        .deny_cache(Duration::ZERO)
        .time_limit(Duration::from_secs(20))
        .atomicity(Atomicity::Optimistic)
        .connect_lazy(proxy.url())
        .expect("a URL");
    let settings = settings_of_strings().prop_filter("totals", expires);
    let cases = (settings, start(), forward(), any::<bool>());
    let coverage = for_some(cases, |case, coverage| {
        expiry_is_invisible(&fixture, &redis, case, coverage)
    });
    coverage.at_least(20, &["keys expire", "reconfigured", "penalty", "refund"]);
    coverage.at_least(10, &["cancel", "a reservation in the future"]);
}
