//! The token bucket decides like GCRA.

use proptest::prelude::*;
use tower_sluice::RetryAfter;

use crate::for_all;
use crate::model::{Core, micros, one};
use crate::shapes::{Kind, Shape, small_shape};
use crate::traffic::{Operation, operations, start, traffic};

/// The generic cell rate algorithm: its only state is the time at which the next cell is due. Times and costs are in
/// fractions of `1 / refill` µs, in which the emission interval is `period`.
struct Gcra {
    due: i128,
    interval: i128,
    refill: i128,
    capacity: i128,
}

impl Gcra {
    fn of(shape: &Shape) -> Self {
        Self {
            due: 0,
            interval: shape.span.into(),
            refill: shape.refill.into(),
            capacity: shape.limit.into(),
        }
    }

    /// Allowed, remaining, retry after and reset after in µs.
    fn operation(&mut self, operation: Operation) -> (bool, i128, Option<Option<i128>>, i128) {
        let (now, cost) = (
            i128::from(operation.now) * self.refill,
            i128::from(operation.cost),
        );
        let up = |time: i128| {
            time.div_euclid(self.refill) + i128::from(time.rem_euclid(self.refill) > 0)
        };
        let tolerance = self.capacity * self.interval;
        let due = self.due.max(now);
        let after = due + cost * self.interval;
        let mut retry_after = None;
        if cost == 0 {
        } else if operation.penalty {
            self.due = due.max(after.min(now + 2 * tolerance));
        } else if cost > self.capacity {
            retry_after = Some(None);
        } else if after - now > tolerance {
            retry_after = Some(Some(up(after - now - tolerance)));
        } else {
            self.due = after;
        }
        let owed = self.due.max(now) - now;
        let remaining = (tolerance - owed).max(0) / self.interval;
        (retry_after.is_none(), remaining, retry_after, up(owed))
    }
}

#[test]
fn a_token_bucket_is_gcra() {
    let coverage = for_all(
        (small_shape(&[Kind::Bucket], true), start(), traffic()),
        |(shape, start, traffic), coverage| {
            let (mut core, mut gcra) = (Core::of(&[shape]), Gcra::of(&shape));
            for operation in operations(&shape, start, &traffic, 0) {
                let reply = core.act(operation);
                let own = one(&reply);
                let retry_after = reply.decision.retry_after().map(|retry| match retry {
                    RetryAfter::In(wait) => Some(i128::from(micros(wait))),
                    RetryAfter::Never => None,
                });
                let bucket = (
                    reply.decision.is_allowed(),
                    i128::from(own.remaining()),
                    retry_after,
                    i128::from(micros(own.reset_after())),
                );
                prop_assert_eq!(bucket, gcra.operation(operation));
                coverage.note(if bucket.0 { "allowed" } else { "denied" });
            }
            Ok(())
        },
    );
    coverage.at_least(500, &["allowed", "denied"]);
}
