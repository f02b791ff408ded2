//! Real threads that decide over several keys: the decisions end, and their totals are exact.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use futures_util::FutureExt;
use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota};

const DAY: Duration = Duration::from_secs(86_400);
const THREADS: u64 = 8;
const USERS: u64 = 16;
const OF_USER: u64 = 400;
const OF_TEAM: u64 = 1_500;
const OF_ORG: u64 = 2_500;

#[test]
fn totals_of_all_scopes_are_exact_and_no_thread_waits_for_ever() {
    let memory = MemoryBackend::new();
    let limiter = |name, limit| {
        let policy = Policy::new(name, Quota::fixed_window(limit, DAY));
        Limiter::new(policy, memory.clone())
    };
    let users = limiter("user", OF_USER);
    let (teams, orgs) = (limiter("team", OF_TEAM), limiter("org", OF_ORG));
    let (barrier, allowed) = (Barrier::new(8), AtomicU64::new(0));
    let org = Key::from("acme");
    thread::scope(|scope| {
        for number in 0..THREADS {
            let (users, teams, orgs, org) = (&users, &teams, &orgs, &org);
            let (barrier, allowed) = (&barrier, &allowed);
            scope.spawn(move || {
                barrier.wait();
                // More than the organization allows.
                for step in 0..OF_ORG {
                    let user = (number * 7 + step) % USERS;
                    let [user, team] = [user, 1_000 + user % 2].map(Key::from);
                    let mut all = [
                        users.scope(&user, 1),
                        teams.scope(&team, 1),
                        orgs.scope(org, 1),
                    ];
                    // Callers may name the same keys in any order.
                    if (number + step) % 2 == 0 {
                        all.reverse();
                    }
                    let scopes = Limiter::all(all).expect("three scopes");
                    let reply = scopes
                        .check()
                        .now_or_never()
                        .expect("memory answers at once");
                    if reply.is_ok_and(|reply| reply.decision.is_allowed()) {
                        allowed.fetch_add(1, Relaxed);
                    }
                }
            });
        }
    });
    let spent = |limiter: &Limiter<MemoryBackend>, limit: u64, key: Key| {
        let left = limiter.peek(&key).now_or_never().expect("at once");
        limit - left.expect("memory cannot fail").remaining()
    };
    let of_users: Vec<_> = (0..USERS)
        .map(|user| spent(&users, OF_USER, Key::from(user)))
        .collect();
    let of_teams = [1_000, 1_001].map(|team| spent(&teams, OF_TEAM, Key::from(team)));
    let allowed = allowed.into_inner();
    assert_eq!(allowed, OF_ORG, "the smallest quota is used up");
    assert_eq!(spent(&orgs, OF_ORG, org), allowed);
    assert_eq!(of_users.iter().sum::<u64>(), allowed);
    assert_eq!(of_teams.iter().sum::<u64>(), allowed);
}

/// A transfer names two accounts, and another thread names them in the opposite order.
#[test]
fn threads_that_name_two_keys_in_opposite_orders_both_decide() {
    let policy = Policy::new("account", Quota::fixed_window(4_000, DAY));
    let accounts = Limiter::new(policy, MemoryBackend::new());
    let keys: Vec<Key> = (0..2_u64).map(Key::from).collect();
    let barrier = Barrier::new(4);
    thread::scope(|scope| {
        for number in 0..4_usize {
            let (accounts, keys, barrier) = (&accounts, &keys, &barrier);
            scope.spawn(move || {
                let (from, to) = (&keys[number % 2], &keys[(number + 1) % 2]);
                barrier.wait();
                for _ in 0..1_000 {
                    let transfer = [accounts.scope(from, 1), accounts.scope(to, 1)];
                    let charge = Limiter::try_acquire_all(transfer).now_or_never();
                    charge.expect("at once").expect("allowed");
                }
            });
        }
    });
    for key in &keys {
        let left = accounts.peek(key).now_or_never().expect("at once");
        assert_eq!(left.map(|left| left.remaining()), Ok(0));
    }
}
