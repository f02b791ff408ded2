//! One decision over several keys: memory, scripts and the optimistic mode give the same answers.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use tower_sluice::backend::Backend;
use tower_sluice::backend::redis::Atomicity;
use tower_sluice::backend::redis::adapter::RedisConnection;
use tower_sluice::clock::Timestamp;
use tower_sluice::limiter::Scopes;
use tower_sluice::{Key, Limiter, Policy, Quota, Receipt, Reservation};

use crate::backends::{Fixture, Reported};
use crate::for_some;
use crate::shapes::TODAY;
use crate::support::clock_proxy::ClockProxy;
use crate::support::property::Coverage;

const NAMES: [&str; 3] = ["user", "team", "org"];

#[derive(Clone, Debug)]
enum Act {
    Check,
    Reserve(Duration),
    Refund(u64),
    Cancel,
    Penalize,
    Reset,
}

#[derive(Clone, Debug)]
struct Step {
    user: u64,
    costs: [u64; 3],
    micros: u64,
    act: Act,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let cost = || prop_oneof![1 => Just(0_u64), 8 => 1..=4_u64, 1 => 5..=12_u64];
    let act = prop_oneof![
        10 => Just(Act::Check),
        3 => (0..3_000_u64).prop_map(|millis| Act::Reserve(Duration::from_millis(millis))),
        3 => (0..4_u64).prop_map(Act::Refund),
        2 => Just(Act::Cancel),
        1 => Just(Act::Penalize),
        1 => Just(Act::Reset),
    ];
    let micros = prop_oneof![Just(0_u64), 0..=800_000_u64];
    let step = (0..4_u64, [cost(), cost(), cost()], micros, act);
    let step = step.prop_map(|(user, costs, micros, act)| Step {
        user,
        costs,
        micros,
        act,
    });
    vec(step, 1..=25)
}

fn quota() -> impl Strategy<Value = Quota> {
    let second = Duration::from_secs(1);
    prop_oneof![
        4 => (1..=10_u64).prop_map(move |limit| Quota::token_bucket(limit, limit, second)),
        2 => (1..=10_u64).prop_map(move |limit| Quota::interval_bucket(limit, 1, second)),
        1 => (1..=10_u64).prop_map(move |limit| Quota::fixed_window(limit, second)),
        1 => (1..=10_u64).prop_map(move |limit| Quota::sliding_window(limit, second)),
    ]
}

/// A backend with the receipts and reservations of its decisions, by user.
struct Side<B> {
    limiters: [Limiter<B>; 3],
    receipts: Vec<(u64, Receipt)>,
    reservations: Vec<(u64, Reservation)>,
}

impl<B: Backend> Side<B> {
    fn new(backend: &B, quotas: [Quota; 3]) -> Self {
        let limiter = |index: usize| {
            let policy = Policy::new(NAMES[index], quotas[index]);
            Limiter::new(policy, backend.clone())
        };
        Self {
            limiters: [0, 1, 2].map(limiter),
            receipts: Vec::new(),
            reservations: Vec::new(),
        }
    }

    fn scopes(&self, keys: &[Key; 3], costs: [u64; 3], by_outermost: bool) -> Scopes<B> {
        let scope = |index: usize| self.limiters[index].scope(&keys[index], costs[index]);
        let scopes = Limiter::all([0, 1, 2].map(scope)).expect("three scopes");
        match by_outermost {
            true => scopes.hash_by_outermost(),
            false => scopes,
        }
    }

    /// The answer in a comparable form: the whole reply, or the numbers of all scopes.
    async fn run(
        &mut self,
        keys: &dyn Fn(u64) -> [Key; 3],
        step: &Step,
        by_outermost: bool,
    ) -> Result<String, B::Error> {
        let scopes = self.scopes(&keys(step.user), step.costs, by_outermost);
        let mut reply = match &step.act {
            Act::Check => scopes.check().await?,
            Act::Reserve(max_wait) => scopes.reserve(*max_wait).await?,
            Act::Refund(part) => {
                let Some((user, receipt)) = self.receipts.last_mut() else {
                    return Ok("no receipt".to_owned());
                };
                let user = *user;
                let receipt = receipt.take(tower_sluice::Cost::new(u64::MAX));
                self.receipts.pop();
                let mut receipt = receipt;
                let scopes = self.scopes(&keys(user), [0; 3], by_outermost);
                return Ok(format!("{:?}", scopes.refund(&mut receipt, *part).await?));
            }
            Act::Cancel => {
                let Some((user, reservation)) = self.reservations.pop() else {
                    return Ok("no reservation".to_owned());
                };
                let scopes = self.scopes(&keys(user), [0; 3], by_outermost);
                let returned = scopes.cancel(reservation).await?;
                return Ok(format!("{returned} {:?}", scopes.peek().await?));
            }
            Act::Penalize => return Ok(format!("{:?}", scopes.penalize().await?)),
            Act::Reset => return Ok(format!("{:?}", scopes.reset().await?)),
        };
        let reported = Reported::of(&reply);
        let receipt = reply.receipt.take();
        self.receipts
            .extend(receipt.map(|receipt| (step.user, receipt)));
        let reservation = reply.reservation.take();
        self.reservations
            .extend(reservation.map(|reservation| (step.user, reservation)));
        Ok(format!("{reported:?}"))
    }
}

fn agree<A: Backend, B: Backend>(
    fixture: &Fixture,
    (one, other): (&A, &B),
    (quotas, steps, by_outermost): ([Quota; 3], Vec<Step>, bool),
    coverage: &Coverage,
) -> TestCaseResult {
    let run = fixture.fresh_key();
    let keys = |user: u64| [user, user % 2, 9].map(|own| Key::join([&run, &Key::from(own)]));
    let (mut one, mut other) = (Side::new(one, quotas), Side::new(other, quotas));
    let mut now = TODAY;
    for (index, step) in steps.iter().enumerate() {
        now += step.micros;
        fixture.clock.set(Timestamp::from_micros(now));
        let expected = fixture.runtime.block_on(one.run(&keys, step, by_outermost));
        let actual = fixture
            .runtime
            .block_on(other.run(&keys, step, by_outermost));
        let (expected, actual) = (expected.expect("an answer"), actual.expect("an answer"));
        prop_assert_eq!(&expected, &actual, "step {} {:?}", index, step);
        for (text, case) in [
            ("allowed: true", "allowed"),
            ("allowed: false", "denied"),
            ("reservation: true", "reserved"),
            ("true Snapshot", "returned"),
            ("false Snapshot", "not returned"),
        ] {
            if expected.contains(text) {
                coverage.note(case);
            }
        }
    }
    coverage.note(match by_outermost {
        true => "by outermost",
        false => "each by itself",
    });
    Ok(())
}

const CASES: &[&str] = &[
    "allowed",
    "denied",
    "reserved",
    "returned",
    "by outermost",
    "each by itself",
];

#[test]
fn memory_and_scripts_agree_on_decisions_over_several_keys() {
    let fixture = Fixture::new();
    let redis = Fixture::builder().from_transport(RedisConnection::new(fixture.frozen()));
    let coverage = for_some(
        ([quota(), quota(), quota()], steps(), any::<bool>()),
        |case, coverage| agree(&fixture, (&fixture.memory(), &redis), case, coverage),
    );
    coverage.at_least(4, CASES);
}

#[test]
fn optimistic_mode_agrees_on_decisions_over_several_keys() {
    let fixture = Fixture::new();
    let proxy = ClockProxy::to(fixture.server.port(), &fixture.clock);
    let proxy = fixture.runtime.block_on(proxy);
    let optimistic = Fixture::builder()
        .atomicity(Atomicity::Optimistic)
        .connect_lazy(proxy.url())
        .expect("a URL");
    let coverage = for_some(
        ([quota(), quota(), quota()], steps(), any::<bool>()),
        |case, coverage| agree(&fixture, (&fixture.memory(), &optimistic), case, coverage),
    );
    coverage.at_least(4, CASES);
}

#[cfg(feature = "blocking")]
#[test]
fn plain_threads_decide_over_several_keys_in_redis() {
    use tower_sluice::blocking;

    let server = crate::support::redis::RedisServer::start();
    let redis = blocking::RedisBackend::connect(server.url()).expect("a server");
    let limiter = |name, limit| {
        let policy = Policy::new(name, Quota::per_hour(limit));
        blocking::Limiter::new(policy, redis.clone())
    };
    let (users, orgs) = (limiter("user", 3), limiter("org", 4));
    let [ann, bob, acme] = ["ann", "bob", "acme"].map(Key::from);
    let both = |user| [users.scope(user, 3), orgs.scope(&acme, 3)];
    let charge = blocking::Limiter::try_acquire_all(both(&ann)).expect("allowed");
    let rejected = blocking::Limiter::try_acquire_all(both(&bob)).unwrap_err();
    assert_eq!(rejected.denied_by(), ["org"]);
    let left =
        |limiter: &blocking::Limiter<_>, key| limiter.peek(key).expect("an answer").remaining();
    assert_eq!(
        (left(&users, &ann), left(&users, &bob), left(&orgs, &acme)),
        (0, 3, 1)
    );
    drop(charge.cancel());
    assert_eq!((left(&users, &ann), left(&orgs, &acme)), (3, 4));
}
