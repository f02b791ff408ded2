//! A late reading shortens no lease of another holder.

use std::time::Duration;

use tower_sluice::backend::Answer;
use tower_sluice::backend::PermitBackend;
use tower_sluice::decision::{PermitId, PermitOp, PermitReply};
use tower_sluice::{Key, MemorySemaphore, SemaphorePolicy};

use crate::held_clock::HeldClock;

const LEASE: Duration = Duration::from_secs(30);

struct Fixture {
    clock: HeldClock,
    semaphore: MemorySemaphore<HeldClock>,
    permits: SemaphorePolicy,
}

fn id(number: u8) -> PermitId {
    PermitId::from_bytes([number; 16])
}

impl Fixture {
    fn new() -> Self {
        let clock = HeldClock::new();
        Self {
            semaphore: MemorySemaphore::builder()
                .clock(clock.clone())
                .leases_end()
                .build(),
            clock,
            permits: SemaphorePolicy::new("exports", 2).with_lease(LEASE),
        }
    }

    fn ask(&self, op: PermitOp) -> PermitReply {
        match self.semaphore.ask(op, &self.permits, &Key::from("ann")) {
            Answer::Now(Ok(reply)) => reply,
            _ => unreachable!("memory answers at once and cannot fail"),
        }
    }

    fn acquire(&self, number: u8) -> PermitReply {
        self.ask(PermitOp::Acquire {
            id: id(number),
            weight: 1,
        })
    }

    fn op(name: &str) -> PermitOp {
        match name {
            "acquire" => PermitOp::Acquire {
                id: id(9),
                weight: 1,
            },
            "renew" => PermitOp::Renew([id(1)].into_iter().collect()),
            "release" => PermitOp::Release(id(7)),
            "peek" => PermitOp::Peek,
            _ => unreachable!("{name}"),
        }
    }
}

#[test]
fn late_reading_decides_like_a_reading_at_the_lock() {
    for name in ["acquire", "renew", "release", "peek"] {
        let run = |is_late: bool| {
            let fixture = Fixture::new();
            assert!(fixture.acquire(1).decision.is_allowed());
            let meanwhile = || {
                fixture.clock.advance(3 * LEASE);
                assert!(fixture.acquire(2).decision.is_allowed());
            };
            let late = || fixture.ask(Fixture::op(name));
            let reply = if is_late {
                fixture.clock.late(late, meanwhile)
            } else {
                meanwhile();
                late()
            };
            // The lease of the second holder has just begun.
            let renewed = fixture.ask(PermitOp::Renew([id(2)].into_iter().collect()));
            (
                reply.decision.clone(),
                reply.lasting().to_vec(),
                renewed.decision.clone(),
                renewed.lasting().to_vec(),
            )
        };
        assert_eq!(run(true), run(false), "{name}");
    }
}
