//! What the script does where the server's clock, its memory, or somebody with other tools are in the way.

use std::time::Duration;

use tower_sluice::backend::Answer;
use tower_sluice::clock::{ManualClock, Timestamp};
use tower_sluice::semaphore::{Backend, Op, PermitId, Reply};
use tower_sluice::{Key, Permits, RedisBackend, RedisSemaphore};

use crate::support::frozen::Frozen;
use crate::support::redis::RedisServer;

const SECOND: Duration = Duration::from_secs(1);

fn ann() -> Key {
    Key::from("ann")
}

async fn ask(redis: &RedisSemaphore, permits: &Permits, op: Op) -> Reply {
    let reply = match redis.ask(op, permits, &ann()) {
        Answer::Now(reply) => reply,
        Answer::Later(reply) => reply.await,
    };
    reply.expect("it answers")
}

/// One who has waited for so long.
fn wait(id: PermitId, waited: Duration) -> Op {
    Op::Wait {
        id,
        weight: 1,
        waited,
    }
}

#[tokio::test]
async fn a_clock_that_goes_back_sends_nobody_who_waits_to_the_end_of_the_line() {
    let server = RedisServer::start();
    let hour = Timestamp::from_micros(1_800_000_000_000_000);
    let clock = ManualClock::at(hour.after(3_600 * SECOND));
    let connection = Frozen::connect(&server.url(), &clock).await;
    let builder = RedisBackend::builder().time_limit(20 * SECOND);
    let redis = RedisSemaphore::new(&builder.from_connection(connection));
    let permits = Permits::new("exports", 1);
    let [held, first, second] = [(); 3].map(|()| PermitId::random());
    let acquire = Op::Acquire {
        id: held,
        weight: 1,
    };
    assert!(ask(&redis, &permits, acquire).await.decision.is_allowed());
    let refused = ask(&redis, &permits, wait(first, 3 * SECOND)).await;
    assert!(!refused.decision.is_allowed() && refused.in_front == 0);
    let refused = ask(&redis, &permits, wait(second, 2 * SECOND)).await;
    assert!(!refused.decision.is_allowed() && refused.in_front == 1);

    clock.set(hour);
    let refused = ask(&redis, &permits, wait(first, 3 * SECOND)).await;
    assert!(!refused.decision.is_allowed() && refused.in_front == 0);
    let refused = ask(&redis, &permits, wait(second, 2 * SECOND)).await;
    assert_eq!(refused.in_front, 1, "the first one stays the first");
    assert!(ask(&redis, &permits, Op::Release(held)).await.lasting[0]);
    let newcomer = wait(PermitId::random(), Duration::ZERO);
    let newcomer = ask(&redis, &permits, newcomer).await;
    assert!(!newcomer.decision.is_allowed() && newcomer.in_front == 2);
    let got = ask(&redis, &permits, wait(first, 3 * SECOND)).await;
    assert!(got.decision.is_allowed());
}
