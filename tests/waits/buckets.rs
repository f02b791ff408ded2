//! Turns: under buckets only, who waits has his time from the moment of asking.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tower_sluice::{Cost, MaxWait, Policy, Quota, RetryAfter};

use crate::crowd::{denied, ms, retry_after, secs, us};
use crate::line::Line;

/// When the `k`-th token of a quota comes, counted from 1, if all of them are spent as they come.
type Schedule = fn(u64) -> Duration;

/// Policies of buckets that give five tokens at once and five a second, by their schedules.
fn at_five_a_second() -> [(Policy, Schedule); 3] {
    let steadily: Schedule = |k| ms(200) * u32::try_from(k.saturating_sub(5)).expect("few");
    let by_ticks: Schedule = |k| secs(k.saturating_sub(5).div_ceil(5));
    // Ten tokens more at a third of a second each are the longer wait from the 15th on.
    let by_both: Schedule = |k| {
        let thirds = us((k.saturating_sub(10) * 1_000_000).div_ceil(3));
        thirds.max(ms(200) * u32::try_from(k.saturating_sub(5)).expect("few"))
    };
    [
        (Policy::new("steady", Quota::per_second(5)), steadily),
        (
            Policy::new("ticks", Quota::interval_bucket(5, 5, secs(1))),
            by_ticks,
        ),
        (
            Policy::new("both", Quota::per_second(5)).and("more", Quota::per_second(3).burst(10)),
            by_both,
        ),
    ]
}

// -- The rate

#[test]
fn a_hundred_waiters_at_five_a_second_go_five_at_once_and_then_as_the_tokens_come() {
    for (policy, schedule) in at_five_a_second() {
        let mut line = Line::of(&policy);
        line.join_all(100);
        assert_eq!(line.waiters(), line.crowd.waiting().len());
        line.crowd.until(secs(40));
        assert_eq!(line.crowd.ended.len(), 100);
        for (index, ended) in line.crowd.ended.iter().enumerate() {
            let moment = schedule(index as u64 + 1);
            assert_eq!((ended.who, ended.at), (index, moment), "{policy:?}");
            let charge = ended.outcome.as_ref().expect("without bound");
            assert_eq!(charge.waited(), moment);
        }
        assert_eq!(line.waiters(), 0);
    }
}

/// As many wait as ask at a time, and each asks again as soon as it has gone.
#[test]
fn with_waiters_all_the_time_no_token_is_lost_and_none_is_made() {
    for (policy, schedule) in at_five_a_second() {
        let mut line = Line::of(&policy);
        for _ in 0..8 {
            line.join(1, secs(5));
        }
        let mut went: Vec<Duration> = Vec::new();
        for step in (0..60_000).step_by(10) {
            while let Some(ended) = line.crowd.ended.pop() {
                ended.outcome.expect("its turn comes within 5 s");
                went.push(ended.at);
                line.join(1, secs(5));
            }
            // Who does not wait comes too late, whenever it comes.
            let passer = line.check(1);
            assert!(!passer.decision.is_allowed(), "{step} ms");
            line.crowd.until(ms(step + 10));
        }
        assert!(went.is_sorted());
        assert!(went.len() >= 180, "{}", went.len());
        for (index, at) in went.iter().enumerate() {
            assert_eq!(*at, schedule(index as u64 + 1), "{index} of {policy:?}");
        }
        assert!(schedule(went.len() as u64 + 1) >= secs(60), "{policy:?}");
    }
}

#[test]
fn who_does_not_wait_gets_as_much() {
    for (policy, schedule) in at_five_a_second() {
        let mut line = Line::of(&policy);
        let mut went = 0;
        for step in 0..20_000_u64 {
            line.clock.jump(ms(step));
            while line.at_once(1, MaxWait::NONE).is_ok() {
                went += 1;
                assert!(schedule(went) <= ms(step));
                // It asks every millisecond.
                assert!(ms(step) < schedule(went) + ms(1), "{went} of {policy:?}");
            }
            assert!(schedule(went + 1) > ms(step));
        }
    }
}

// -- The order

#[test]
fn a_hundred_waiters_go_in_the_order_of_their_asking_whatever_they_cost() {
    for seed in 0..20 {
        let mut random = StdRng::seed_from_u64(seed);
        let policy = Policy::new("steady", Quota::per_second(5));
        let mut line = Line::of(&policy).in_disorder(seed);
        let (mut asked, mut free, mut moments) = (0, 0_u64, Vec::new());
        for _ in 0..100 {
            asked += random.random_range(0..100_000);
            let cost = random.random_range(1..=5);
            line.crowd.until(us(asked));
            line.join(cost, MaxWait::Unbounded);
            // All that was ever charged has come back at `free`; a bucket that full goes back a second.
            free = free.max(asked) + cost * 200_000;
            moments.push(us(free.saturating_sub(1_000_000).max(asked)));
        }
        line.crowd.until(secs(120));
        let mut ended: Vec<_> = line.crowd.ended.iter().map(|e| (e.who, e.at)).collect();
        assert_eq!(ended.len(), 100);
        ended.sort_by_key(|(who, _)| *who);
        assert!(ended.is_sorted_by_key(|(_, at)| *at));
        for ((_, at), moment) in ended.iter().zip(&moments) {
            assert_eq!(at, moment);
        }
    }
}

// -- Who is told no, and when

#[test]
fn who_would_wait_too_long_is_told_so_at_once_and_charged_nothing() {
    for (policy, schedule) in at_five_a_second() {
        for ahead in [5, 6, 9, 14, 15, 16, 40] {
            let mut line = Line::of(&policy);
            line.clock.jump(us(1));
            line.join_all(ahead);
            let turn = schedule(ahead + 1);
            let before = line.books();
            for short in [us(1), turn / 2, turn - us(1), turn] {
                let refused = line.at_once(1, turn - short);
                assert_eq!(retry_after(&refused), turn, "{policy:?}");
                assert_eq!(denied(&refused).snapshot().remaining(), 0);
            }
            assert_eq!(
                (line.books(), line.waiters()),
                (before, line.crowd.waiting().len())
            );
            // As long as it takes, to the microsecond.
            let who = line.join(1, turn);
            assert!(line.crowd.waits(who));
            line.crowd.until(us(1) + turn - us(1));
            assert!(line.crowd.waits(who), "not a microsecond early");
            line.crowd.until(us(1) + turn);
            assert!(!line.crowd.waits(who));
        }
    }
}

#[test]
fn what_a_refusal_tells_comes_true() {
    for (policy, _) in at_five_a_second() {
        let mut line = Line::of(&policy);
        line.join_all(12);
        let wait = retry_after(&line.at_once(3, us(1)));
        line.crowd.until(wait - us(1));
        assert_eq!(retry_after(&line.at_once(3, MaxWait::NONE)), us(1));
        line.crowd.until(wait);
        line.at_once(3, MaxWait::NONE).expect("the time has come");
    }
}

#[test]
fn no_wait_is_a_check() {
    for none in [
        MaxWait::NONE,
        MaxWait::of(Duration::ZERO),
        Duration::ZERO.into(),
    ] {
        for (policy, _) in at_five_a_second() {
            let mut line = Line::of(&policy);
            for left in (0..5).rev() {
                let charge = line.at_once(1, none).expect("it is there");
                assert_eq!(charge.waited(), Duration::ZERO);
                assert_eq!(line.books().0, left);
            }
            let books = line.books();
            let refused = line.at_once(1, none);
            let check = line.check(1).decision;
            assert_eq!(*denied(&refused), check);
            assert_eq!(line.books(), books);
        }
    }
}

#[test]
fn without_a_bound_it_waits_for_as_long_as_it_takes() {
    let mut line = Line::of(&Policy::new("slow", Quota::per_day(1)));
    line.join_all(400);
    line.crowd.until(secs(399 * 86_400) - us(1));
    assert_eq!(line.crowd.waiting(), [399]);
    line.crowd.until(secs(399 * 86_400));
    let last = line.crowd.ended.pop().expect("its turn has come").outcome;
    assert_eq!(last.expect("no bound").waited(), secs(399 * 86_400));
}

#[test]
fn what_costs_nothing_goes_at_once_whoever_waits() {
    for (policy, _) in at_five_a_second() {
        let mut line = Line::of(&policy);
        line.join_all(20);
        let books = line.books();
        for max_wait in [MaxWait::NONE, MaxWait::of(secs(1)), MaxWait::Unbounded] {
            for nothing in [Cost::ZERO, Cost::each([0, 0, 0])] {
                let charge = line.at_once(nothing, max_wait).expect("it is free");
                assert_eq!(charge.waited(), Duration::ZERO);
            }
        }
        assert_eq!(line.books(), books);
    }
}

#[test]
fn what_costs_more_than_the_limit_is_refused_for_good_at_once() {
    for (policy, _) in at_five_a_second() {
        for waiters in [0, 20] {
            let mut line = Line::of(&policy);
            line.join_all(waiters);
            let books = line.books();
            for max_wait in [MaxWait::NONE, MaxWait::of(secs(1)), MaxWait::Unbounded] {
                for cost in [6, u64::MAX] {
                    let refused = line.at_once(cost, max_wait);
                    assert_eq!(denied(&refused).retry_after(), Some(RetryAfter::Never));
                }
            }
            assert_eq!(
                (line.books(), line.waiters()),
                (books, line.crowd.waiting().len())
            );
        }
    }
    // By one quota of several.
    let mut line = Line::of(&at_five_a_second()[2].0);
    let refused = line.at_once(Cost::each([1, 11]), MaxWait::Unbounded);
    assert_eq!(denied(&refused).retry_after(), Some(RetryAfter::Never));
}

// -- Who goes away

/// Five have gone; the next three have turns 200, 400 and 600 ms from now.
fn three_wait(policy: &Policy) -> (Line, [usize; 3]) {
    let mut line = Line::of(policy);
    line.join_all(5);
    let three = [(); 3].map(|()| line.join(1, MaxWait::Unbounded));
    line.crowd.ended.clear();
    (line, three)
}

#[test]
fn a_last_turn_that_is_given_up_goes_back() {
    for (policy, schedule) in at_five_a_second() {
        let (mut line, [.., last]) = three_wait(&policy);
        line.crowd.until(ms(100));
        assert!(line.crowd.leave(last));
        // The next one has its time.
        let next = line.join(1, MaxWait::Unbounded);
        line.crowd.until(secs(10));
        assert_eq!(
            line.ended(),
            [
                (5, schedule(6), true),
                (6, schedule(7), true),
                (next, schedule(8), true)
            ],
            "{policy:?}"
        );
    }
}

#[test]
fn all_turns_that_are_given_up_from_the_end_go_back() {
    for (policy, schedule) in at_five_a_second() {
        let (mut line, three) = three_wait(&policy);
        for who in three.into_iter().rev() {
            assert!(line.crowd.leave(who));
        }
        assert_eq!(line.waiters(), 0);
        let refused = line.at_once(1, us(1));
        assert_eq!(retry_after(&refused), schedule(6), "{policy:?}");
    }
}

#[test]
fn a_turn_with_others_behind_it_passes_unused() {
    for (policy, schedule) in at_five_a_second() {
        let (mut line, [first, middle, last]) = three_wait(&policy);
        let books = line.books();
        assert!(line.crowd.leave(middle));
        assert_eq!(line.books(), books, "those behind it keep their times");
        let next = line.join(1, MaxWait::Unbounded);
        line.crowd.until(secs(10));
        let moments = [
            (first, schedule(6), true),
            (last, schedule(8), true),
            (next, schedule(9), true),
        ];
        assert_eq!(line.ended(), moments, "{policy:?}");
    }
}

/// Whoever has not gone on has spent nothing, also when the time has come.
#[test]
fn a_turn_that_nobody_took_up_goes_back_late() {
    for (policy, _) in at_five_a_second() {
        for late in [us(0), us(1), ms(150)] {
            let (mut line, [.., last]) = three_wait(&policy);
            let (without, [.., gone]) = three_wait(&policy);
            // The same line in which the last one has never been.
            let mut without = without;
            assert!(without.crowd.leave(gone));
            for line in [&mut line, &mut without] {
                line.clock.jump(secs(1) + late);
            }
            assert_ne!(line.books(), without.books());
            assert!(line.crowd.leave(last));
            assert_eq!(line.books(), without.books(), "{policy:?}");
            line.crowd.run();
            assert_eq!((line.crowd.ended.len(), line.waiters()), (2, 0));
        }
    }
}

#[test]
fn who_goes_away_before_asking_has_done_nothing() {
    for (policy, _) in at_five_a_second() {
        let mut line = Line::of(&policy);
        line.join_all(5);
        let books = line.books();
        for max_wait in [MaxWait::NONE, MaxWait::of(secs(1)), MaxWait::Unbounded] {
            let wait = line.wait(1, max_wait);
            let who = line.crowd.bring(wait);
            assert_eq!(line.waiters(), 0);
            assert!(line.crowd.leave(who));
        }
        assert_eq!((line.books(), line.waiters()), (books, 0));
    }
}

#[test]
fn the_charge_of_one_who_has_gone_ahead_stays() {
    for (policy, schedule) in at_five_a_second() {
        let (mut line, _) = three_wait(&policy);
        line.crowd.until(schedule(8));
        assert_eq!(line.crowd.ended.len(), 3);
        let books = line.books();
        line.crowd.ended.clear();
        assert_eq!(line.books(), books, "{policy:?}");
    }
}
