//! Windows, alone or beside a bucket: who waits stands in line, and the first of the line looks again.

use std::time::Duration;

use tower_sluice::{Cost, Key, MaxWait, Policy, Quota, RetryAfter};

use crate::crowd::{denied, ms, retry_after, secs, us};
use crate::line::Line;

/// Three in ten seconds, by all that has a window.
fn three_in_ten_seconds() -> [Policy; 4] {
    let window = Quota::fixed_window(3, secs(10));
    [
        Policy::new("fixed", window),
        Policy::new("counter", Quota::sliding_window(3, secs(10))),
        Policy::new("log", Quota::sliding_log(3, secs(10))),
        Policy::new("mixed", Quota::per_second(1).burst(4)).and("window", window),
    ]
}

fn fixed(limit: u64) -> Policy {
    Policy::new("fixed", Quota::fixed_window(limit, secs(10)))
}

/// `spent` tokens of `policy` are gone, one second after the start.
fn after(spent: u64, policy: &Policy) -> Line {
    let mut line = Line::of(policy);
    line.clock.jump(secs(1));
    line.at_once(spent, MaxWait::NONE).expect("they are there");
    line
}

// -- The line

#[test]
fn only_the_first_of_the_line_asks_and_the_others_follow_in_their_order() {
    for policy in three_in_ten_seconds() {
        for seed in 0..20 {
            let mut line = after(3, &policy).in_disorder(seed);
            line.join_all(10);
            let asked = line.limiter.backend().asked();
            let allowed: Vec<_> = asked.iter().map(|asked| asked.is_allowed).collect();
            assert_eq!(allowed, [true, false], "{policy:?}");
            assert_eq!(line.waiters(), 10);

            line.crowd.until(secs(100));
            let ended = line.ended();
            let who: Vec<_> = ended.iter().map(|(who, ..)| *who).collect();
            assert_eq!(who, Vec::from_iter(1..=10), "{policy:?}");
            assert!(ended.iter().all(|(.., allowed)| *allowed));
            assert_eq!(line.waiters(), 0);
            // Each asks when it has become the first, and once more when the wait is over that it was told.
            let asked = line.limiter.backend().asked();
            assert!(asked.iter().all(|asked| asked.what == "check"));
            for two in asked.windows(2) {
                assert!(two[0].is_allowed || two[1].is_allowed, "{two:?}");
            }
            let refusals = asked.iter().filter(|asked| !asked.is_allowed).count();
            assert_eq!(asked.len(), 1 + 10 + refusals);
            if policy == fixed(3) {
                // Three go at each edge, and a fourth learns of the next one.
                assert_eq!(refusals, 1 + 3);
                let at: Vec<_> = ended.iter().map(|(_, at, _)| at.as_secs()).collect();
                assert_eq!(at, [10, 10, 10, 20, 20, 20, 30, 30, 30, 40]);
            }
        }
    }
}

#[test]
fn each_goes_when_its_tokens_have_come_and_tells_how_long_it_has_waited() {
    for policy in three_in_ten_seconds() {
        let mut line = after(3, &policy);
        let mut without = after(3, &policy);
        for _ in 0..10 {
            line.join(2, MaxWait::Unbounded);
        }
        line.crowd.until(secs(200));
        assert_eq!(line.crowd.ended.len(), 10);
        for ended in line.crowd.ended.drain(..) {
            // As soon as one who knows the time could.
            let wait = retry_after(&without.at_once(2, us(1)));
            without.crowd.until(without.clock.passed() + wait);
            without.at_once(2, MaxWait::NONE).expect("it has come");
            assert_eq!(ended.at, without.clock.passed(), "{policy:?}");
            let charge = ended.outcome.expect("without bound");
            assert_eq!(charge.waited(), ended.at - secs(1));
        }
    }
}

/// Whoever comes to a line stands behind it, though there may be enough for him.
#[test]
fn nobody_overtakes_the_first_of_the_line() {
    for policy in three_in_ten_seconds() {
        let mut line = after(1, &policy);
        let first = line.join(3, MaxWait::Unbounded);
        let second = line.join(1, MaxWait::Unbounded);
        assert!(line.crowd.waits(second));
        line.crowd.until(secs(100));
        let who: Vec<_> = line.ended().iter().map(|(who, ..)| *who).collect();
        assert_eq!(who, [first, second], "{policy:?}");
    }
}

#[test]
fn a_first_of_the_line_that_goes_away_wakes_the_next() {
    for policy in three_in_ten_seconds() {
        let mut line = after(1, &policy);
        let first = line.join(3, MaxWait::Unbounded);
        let second = line.join(1, MaxWait::Unbounded);
        let third = line.join(3, MaxWait::Unbounded);
        line.crowd.until(secs(1) + us(1));
        let books = line.books();
        assert!(line.crowd.leave(first));
        assert_eq!(line.books(), books, "who only waits is charged nothing");
        line.crowd.run();
        assert_eq!(
            line.ended(),
            [(second, secs(1) + us(1), true)],
            "{policy:?}"
        );
        // It may go away while it stands further back, too.
        let last = line.join(1, MaxWait::Unbounded);
        assert!(line.crowd.leave(third));
        line.crowd.run();
        assert_eq!(line.ended(), [(last, secs(1) + us(1), true)], "{policy:?}");
        assert_eq!(line.waiters(), 0);
    }
}

#[test]
fn who_goes_away_before_asking_has_asked_nothing() {
    for policy in three_in_ten_seconds() {
        let mut line = after(3, &policy);
        let wait = line.wait(1, MaxWait::Unbounded);
        let who = line.crowd.bring(wait);
        assert!(line.crowd.leave(who));
        assert_eq!((line.asks(), line.waiters()), (1, 0));
    }
}

#[test]
fn keys_and_policies_have_lines_of_their_own() {
    let mut line = after(3, &fixed(3));
    line.join_all(2);
    let bob = line.wait_for(&Key::from("bob"), 1, MaxWait::Unbounded);
    line.crowd.at_once(bob).expect("he has spent nothing");
    let other = line
        .limiter
        .with(&Policy::new("other", Quota::fixed_window(3, secs(10))));
    line.crowd
        .at_once(async move { other.wait(&Key::from("ann"), 1, MaxWait::Unbounded).await })
        .expect("nothing is spent of it");
}

/// A client that has been given more stands in no line of those who have less, nor is told of their limits.
#[test]
fn tiers_of_one_policy_have_lines_of_their_own() {
    let mut line = after(3, &fixed(3));
    line.join_all(2);
    let paid = fixed(8).and("day", Quota::fixed_window(8, secs(86_400)));
    let paid = line.limiter.with(&paid);
    let wait = |cost: u64, max_wait: Duration| {
        let paid = paid.clone();
        async move { paid.wait(&Key::from("ann"), cost, max_wait).await }
    };
    line.crowd.at_once(wait(5, secs(1))).expect("it is there");
    let head = line.crowd.join(wait(4, secs(86_400)));
    let refused = line.crowd.at_once(wait(4, secs(1)));
    assert_eq!(denied(&refused).snapshot().quotas().len(), 2);
    assert_eq!(
        retry_after(&refused),
        secs(86_400) - secs(1) - secs(line_day())
    );
    assert!(line.crowd.waits(head));
}

/// Seconds of the day of the start.
fn line_day() -> u64 {
    crate::crowd::START / 1_000_000 % 86_400
}

// -- Who is told no, and when

#[test]
fn a_wait_longer_than_what_is_left_is_refused_at_once_with_the_time() {
    for policy in three_in_ten_seconds() {
        let mut line = after(3, &policy);
        let wait = retry_after(&line.at_once(1, us(1)));
        let books = line.books();
        for too_short in [Duration::ZERO, us(1), wait - us(1)] {
            let asks = line.asks();
            let refused = line.at_once(1, too_short);
            assert_eq!(retry_after(&refused), wait, "{policy:?}");
            assert_eq!(
                (line.asks(), line.books(), line.waiters()),
                (asks + 1, books, 0)
            );
        }
        // To the microsecond.
        let who = line.join(1, wait);
        line.crowd.until(secs(1) + wait - us(1));
        assert!(line.crowd.waits(who));
        line.crowd.until(secs(1) + wait);
        assert_eq!(line.ended(), [(who, secs(1) + wait, true)]);
    }
}

#[test]
fn at_the_head_of_a_line_it_is_refused_as_soon_as_it_is_known_to_be_in_vain() {
    let mut line = after(3, &fixed(3));
    let first = line.join(3, MaxWait::Unbounded);
    let second = line.join(1, secs(18));
    line.crowd.until(secs(60));
    let first_gone = line.crowd.ended.remove(0);
    let refused = line.crowd.ended.remove(0);
    assert_eq!((first_gone.who, refused.who), (first, second));
    // Of 18 s it has 9 left, and the next edge is 10 s away.
    assert_eq!(refused.at, secs(10));
    assert_eq!(retry_after(&refused.outcome), secs(10));
}

#[test]
fn a_newcomer_that_cannot_be_served_in_time_is_checked_before_it_is_rejected() {
    for policy in three_in_ten_seconds() {
        let mut line = after(1, &policy);
        let head = line.join(3, MaxWait::Unbounded);
        let wait = retry_after(&line.at_once(3, MaxWait::NONE));
        line.clock.jump(secs(1) + us(5));
        let short = wait - us(6);
        // Two tokens are there, and the head needs three.
        let asks = line.asks();
        for _ in 0..2 {
            let charge = line
                .at_once(1, short)
                .expect("it is allowed without a wait");
            assert_eq!(charge.waited(), Duration::ZERO);
        }
        // The numbers of its own check, not those of the head.
        let check = line.check(1).decision;
        let refused = line.at_once(1, short);
        assert_eq!(*denied(&refused), check, "{policy:?}");
        assert_eq!((line.asks(), line.waiters()), (asks + 3, 1));
        // One that can wait for so long does not overtake.
        let who = line.join(1, wait - us(5));
        assert!(line.crowd.waits(who) && line.crowd.waits(head));
        assert_eq!(line.asks(), asks + 3);
    }
}

#[test]
fn a_waiter_whose_time_is_up_is_checked_before_it_is_rejected() {
    let mut line = after(2, &fixed(4));
    let head = line.join(4, MaxWait::Unbounded);
    let hasty = line.join(1, secs(11));
    let dear = line.join(4, secs(11));
    // At the edge another request is faster than the head, which looks again ten seconds later.
    line.clock.jump(secs(10));
    assert!(line.check(1).decision.is_allowed());
    line.crowd.until(secs(12) - us(1));
    assert!(line.crowd.waits(hasty) && line.crowd.waits(dear));
    line.crowd.until(secs(12));
    let ended: Vec<_> = line.crowd.ended.drain(..).collect();
    assert_eq!(
        ended.iter().map(|e| e.who).collect::<Vec<_>>(),
        [hasty, dear]
    );
    let charge = ended[0].outcome.as_ref().expect("three tokens are there");
    assert_eq!(charge.waited(), secs(11));
    assert_eq!(retry_after(&ended[1].outcome), secs(8));
    line.crowd.until(secs(20));
    assert_eq!(line.ended(), [(head, secs(20), true)]);
}

#[test]
fn in_the_line_it_is_refused_when_its_time_is_up() {
    let mut line = after(3, &fixed(3));
    line.join(3, MaxWait::Unbounded);
    line.join(3, MaxWait::Unbounded);
    let hasty = line.join(1, secs(12));
    let behind = line.join(1, MaxWait::Unbounded);
    line.crowd.until(secs(10));
    let asks = line.asks();
    line.crowd.until(secs(13) - us(1));
    assert!(line.crowd.waits(hasty));
    line.crowd.until(secs(13));
    let refused = line.crowd.ended.pop().expect("its time is up");
    assert_eq!((refused.who, refused.at), (hasty, secs(13)));
    // What the head of the line was told, less what has passed since.
    assert_eq!(retry_after(&refused.outcome), secs(7));
    assert_eq!(denied(&refused.outcome).snapshot().limit(), 3);
    assert_eq!(line.asks(), asks + 1, "by a check of its own");
    line.ended();
    line.crowd.until(secs(60));
    let who: Vec<_> = line.ended().iter().map(|(who, ..)| *who).collect();
    assert_eq!(who, [2, behind]);
}

/// At one moment an edge is reached, and somebody's time is up: he may be too late, but he does not overtake.
#[test]
fn who_is_out_of_time_overtakes_nobody() {
    for seed in 0..200 {
        let mut line = after(2, &fixed(2)).in_disorder(seed);
        let first = line.join(1, MaxWait::Unbounded);
        let second = line.join(1, MaxWait::Unbounded);
        let hasty = line.join(1, secs(9));
        line.crowd.until(secs(10));
        let ended = line.ended();
        let gone: Vec<_> = ended.iter().filter(|(.., went)| *went).collect();
        assert_eq!(gone, [&(first, secs(10), true), &(second, secs(10), true)]);
        assert!(!line.crowd.waits(hasty));
    }
}

#[test]
fn who_is_reached_in_the_last_moment_is_served() {
    for policy in three_in_ten_seconds() {
        let mut line = after(3, &policy);
        let wait = retry_after(&line.at_once(3, MaxWait::NONE));
        let two = [line.join(1, wait), line.join(2, wait)];
        line.crowd.until(secs(1) + wait);
        let at = secs(1) + wait;
        assert!(line.ended().contains(&(two[1], at, true)), "{policy:?}");
    }
}

#[test]
fn the_word_of_one_who_went_away_keeps_nobody_out() {
    let mut line = after(2, &fixed(4));
    let dear = line.join(4, MaxWait::Unbounded);
    let next = line.join(1, MaxWait::Unbounded);
    assert!(line.crowd.leave(dear));
    // The next one has not heard of it yet.
    let newcomer = line.join(1, secs(1));
    line.crowd.run();
    let ended = line.ended();
    assert_eq!(ended, [(next, secs(1), true), (newcomer, secs(1), true)]);
}

#[test]
fn the_word_of_one_who_was_refused_keeps_nobody_out() {
    let mut line = after(2, &fixed(4));
    // Told to look at the edge, and refused there, as somebody else was faster.
    let dear = line.join(4, secs(10));
    let next = line.join(1, secs(11));
    line.clock.jump(secs(10));
    assert!(line.check(2).decision.is_allowed());
    line.crowd.until(secs(10));
    assert_eq!(
        line.ended(),
        [(dear, secs(10), false), (next, secs(10), true)]
    );
}

#[test]
fn what_is_free_or_never_allowed_stands_in_no_line() {
    for policy in three_in_ten_seconds() {
        let mut line = after(3, &policy);
        line.join_all(2);
        for max_wait in [MaxWait::NONE, MaxWait::of(secs(1)), MaxWait::Unbounded] {
            let free = line.at_once(Cost::ZERO, max_wait).expect("it is free");
            assert_eq!(free.waited(), Duration::ZERO);
            let never = line.at_once(5, max_wait);
            assert_eq!(denied(&never).retry_after(), Some(RetryAfter::Never));
        }
        assert_eq!(line.waiters(), 2);
    }
}

// -- Other processes

/// How much later than told each of 100 looked again.
fn jitter(wait: Duration, max_wait: MaxWait, is_shared: bool) -> Vec<Duration> {
    let policy = Policy::new("log", Quota::sliding_log(1, wait));
    let mut line = Line::with(&policy, |backend| match is_shared {
        true => backend.shared(),
        false => backend,
    });
    for number in 0..100_u64 {
        let key = Key::from(number);
        let first = line.wait_for(&key, 1, MaxWait::NONE);
        line.crowd.at_once(first).expect("it is there");
        let again = line.wait_for(&key, 1, max_wait);
        line.crowd.join(again);
    }
    line.crowd.until(wait - us(1));
    assert!(line.crowd.ended.is_empty(), "never early");
    line.crowd.until(2 * wait);
    assert_eq!(line.crowd.ended.len(), 100);
    line.ended()
        .into_iter()
        .map(|(_, at, allowed)| {
            assert!(allowed);
            at - wait
        })
        .collect()
}

#[test]
fn beside_other_processes_it_looks_up_to_a_tenth_later_and_100_ms_at_the_most() {
    for wait in [
        us(1),
        us(9),
        us(10),
        us(100),
        ms(20),
        ms(999),
        secs(1),
        secs(60),
        secs(86_400),
    ] {
        let most = (wait / 10).min(ms(100));
        let late = jitter(wait, MaxWait::Unbounded, true);
        let (least, longest) = (late.iter().min(), late.iter().max());
        assert!(longest <= Some(&most), "{longest:?} of {wait:?}");
        if most >= us(10) {
            assert!(least < Some(&(most / 5)), "{least:?} of {wait:?}");
            assert!(longest > Some(&(most / 5 * 4)), "{longest:?} of {wait:?}");
        }
        // Alone it knows better.
        let alone = jitter(wait, MaxWait::Unbounded, false);
        assert!(alone.iter().all(Duration::is_zero));
    }
}

#[test]
fn nobody_looks_again_after_his_time_is_up() {
    for wait in [ms(20), secs(60)] {
        for late in jitter(wait, MaxWait::of(wait + us(3)), true) {
            assert!(late <= us(3), "{late:?}");
        }
    }
}
