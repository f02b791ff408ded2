use super::*;
use crate::decision::{Decision, QuotaSnapshot, Snapshot};

fn granted(id: PermitId, policy: &SemaphorePolicy, key: &Key) -> Arc<Lease> {
    let capacity = policy.capacity().into();
    let numbers = QuotaSnapshot::new(capacity, capacity - 1, None, Duration::ZERO);
    let decision = Decision::from_snapshot(Snapshot::single(numbers));
    Arc::new(Lease::new(id, 1, policy, key, decision))
}

/// Each key is a group. One of 100 renewals fails, while the others wait for their first one.
#[test]
fn failed_renewal_is_repeated_before_those_of_later_leases() {
    let leases = Leases::new(&Arc::default());
    let at = Timestamp::from_micros;
    let policy = SemaphorePolicy::new("p", 1);
    let start = |number: u64| at(1_000_000 + number);
    for number in 0..100 {
        let id = PermitId::from_bytes(u128::from(number).to_be_bytes());
        let lease = granted(id, &policy, &Key::from(number));
        let _ = leases.insert(&lease, start(number), || start(number));
    }
    let now = at(12_000_000);
    leases.gather(now);
    let group = leases.take(now).expect("all are due");
    assert_eq!(group.key, Key::from(0_u64), "the first lease ends first");
    leases.settle(&RenewalResult {
        group,
        asked_at: now,
        lasting: None,
    });
    let later = at(14_000_000);
    leases.gather(later);
    let again = leases.take(later).expect("it failed");
    assert_eq!(again.key, Key::from(0_u64));
    let next = leases.take(later).expect("it is due");
    assert_eq!(next.key, Key::from(1_u64));
}

#[test]
fn the_clock_is_read_under_the_lock_of_the_leases() {
    let leases = Leases::new(&Arc::default());
    let lease = |id| {
        let policy = SemaphorePolicy::new("p", 9);
        granted(id, &policy, &Key::from("ann"))
    };
    let reading = |micros| {
        let leases = &leases;
        move || {
            assert!(leases.state.is_locked(), "a late reading");
            Timestamp::from_micros(micros)
        }
    };
    let (first, second) = (lease(PermitId::random()), lease(PermitId::random()));
    let start = Timestamp::from_micros(1_000);
    let insertion = leases.insert(&first, start, reading(1_000));
    assert!(matches!(insertion, Insertion::NeedsTask(_)));
    let insertion = leases.insert(&second, start, reading(1_000));
    assert!(matches!(insertion, Insertion::Renewed));
    leases.check_lease(first.id, reading(30_000_999));
    assert!(!first.is_lost());
    leases.check_lease(first.id, reading(30_001_000));
    assert!(first.is_lost() && !second.is_lost());
}
