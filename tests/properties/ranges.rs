//! Numbers at the ends of their ranges.

use proptest::collection::vec;
use proptest::prelude::*;
use tower_sluice::clock::Timestamp;
use tower_sluice::decision::Receipt;
use tower_sluice::{Cost, RetryAfter};

use crate::for_all;
use crate::memory::Op;
use crate::model::{Core, one};
use crate::shapes::{KINDS, huge_shape, small_shape};
use crate::traffic::{TODAY, spend};

#[test]
fn no_number_panics() {
    let last = Timestamp::MAX.as_micros();
    let time = prop_oneof![
        Just(0),
        Just(1),
        Just(TODAY),
        Just(last),
        (last - 9)..=last,
        Just((1 << 53) - 1),
        0..=last,
        Just(u64::MAX)
    ];
    let cost = prop_oneof![
        Just(0),
        Just(1),
        Just(u64::MAX),
        (u64::MAX - 9)..=u64::MAX,
        any::<u64>()
    ];
    let op = prop_oneof![
        8 => Just(Op::Check),
        4 => Just(Op::Penalize),
        2 => any::<prop::sample::Index>().prop_map(Op::Refund),
        1 => Just(Op::Reset),
    ];
    let shapes = || prop_oneof![3 => huge_shape(KINDS, false), 1 => small_shape(KINDS, false)];
    let coverage = for_all(
        (
            shapes(),
            vec(
                (
                    time,
                    cost,
                    spend(),
                    op,
                    proptest::option::weighted(0.1, shapes()),
                ),
                1..60,
            ),
        ),
        |(mut shape, traffic), coverage| {
            let (mut core, mut receipts) = (Core::of(&[shape]), Vec::<Receipt>::new());
            for (time, cost, spend, op, other) in traffic {
                if let Some(other) = other {
                    // Backends separate other algorithms and windows. The algorithms must not panic if a backend fails
                    // to do so.
                    shape = other;
                    core.policy = Core::of(&[shape]).policy;
                }
                let now = Timestamp::from_micros(time).as_micros();
                let cost = if cost % 3 == 0 {
                    spend.of(shape.limit)
                } else {
                    cost
                };
                let own = match op {
                    Op::Check => {
                        let reply = core.check(now, cost);
                        prop_assert_eq!(
                            reply.decision.retry_after() == Some(RetryAfter::Never),
                            cost > shape.limit
                        );
                        if let Some(RetryAfter::In(wait)) = reply.decision.retry_after() {
                            prop_assert!(!wait.is_zero());
                            coverage.note("denied");
                        }
                        let own = one(&reply);
                        receipts.extend(reply.receipt);
                        own
                    }
                    Op::Penalize => one(&core.penalize(now, cost)),
                    Op::Refund(index) if !receipts.is_empty() => {
                        let taken = index.get_mut(&mut receipts).take(Cost::new(cost));
                        core.refund(now, &taken)
                    }
                    Op::Refund(_) | Op::Reset => core.reset(now),
                };
                prop_assert_eq!(own.limit(), shape.limit);
                prop_assert!(own.remaining() <= own.limit());
                coverage.note(format!("{:?}", shape.kind));
            }
            Ok(())
        },
    );
    coverage.at_least(
        100,
        &[
            "denied",
            "Bucket",
            "IntervalBucket",
            "FixedWindow",
            "SlidingWindow",
            "SlidingLog",
        ],
    );
}
