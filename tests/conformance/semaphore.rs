//! `semaphore.json`: in memory with leases, in memory without leases as far as no lease matters, and in Redis.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use serde_json::Value;
use tokio::runtime::Runtime;
use tower_sluice::backend::Answer;
use tower_sluice::clock::{ManualClock, Timestamp};
use tower_sluice::semaphore::{MemorySemaphore, PermitBackend, PermitId, PermitOp, PermitReply};
use tower_sluice::{Key, MemoryBackend, RetryAfter, SemaphorePolicy};

use crate::runner::{Object, micros, number, object, only, read};
use crate::subject::runtime;

fn small(object: &Object, field: &str) -> u32 {
    u32::try_from(number(object, field)).expect("a weight")
}

fn permits(limit: &Object) -> SemaphorePolicy {
    only(limit, &["capacity", "lease_us"]);
    SemaphorePolicy::new("vectors", small(limit, "capacity")).with_lease(micros(limit, "lease_us"))
}

/// The ids of the vectors, which are short texts.
fn id(step: &Object) -> PermitId {
    let text = step["id"].as_str().expect("text").as_bytes();
    let mut bytes = [0; 16];
    bytes[..text.len()].copy_from_slice(text);
    PermitId::from_bytes(bytes)
}

/// A reply in the words of the vectors.
fn reported(reply: &PermitReply) -> Object {
    let us = |span: Duration| u64::try_from(span.as_micros()).expect("fits");
    let snapshot = reply.decision.snapshot();
    let mut answer = Object::new();
    answer.insert("remaining".into(), snapshot.remaining().into());
    answer.insert("reset_after_us".into(), us(snapshot.reset_after()).into());
    answer
}

fn run<B: PermitBackend>(
    vector: &Object,
    backend: &B,
    clock: &ManualClock,
    runtime: &Runtime,
    key: &Key,
) -> Result<(), String> {
    let mut permits = permits(object(&vector["limit"]));
    let ask = |op: PermitOp, permits: &SemaphorePolicy| {
        let answer = runtime.block_on(async {
            match backend.ask(op, permits, key) {
                Answer::Now(reply) => reply,
                Answer::Later(reply) => reply.await,
            }
        });
        answer.unwrap_or_else(|error| panic!("{error}: {error:?}"))
    };
    for (index, step) in vector["steps"]
        .as_array()
        .expect("steps")
        .iter()
        .enumerate()
    {
        let step = object(step);
        clock.set(Timestamp::from_micros(number(step, "at_us")));
        let actual = match step["op"].as_str().expect("an operation") {
            "acquire" => {
                only(step, &["op", "at_us", "id", "weight", "expect"]);
                let (id, weight) = (id(step), small(step, "weight"));
                let reply = ask(PermitOp::Acquire { id, weight }, &permits);
                let mut actual = reported(&reply);
                let (wait, never) = match reply.decision.retry_after() {
                    None => (Value::Null, false),
                    Some(RetryAfter::Never) => (Value::Null, true),
                    Some(RetryAfter::In(wait)) => {
                        let wait = u64::try_from(wait.as_micros()).expect("fits");
                        (wait.into(), false)
                    }
                };
                actual.insert("acquired".into(), reply.decision.is_allowed().into());
                actual.insert("retry_after_us".into(), wait);
                if never {
                    actual.insert("unsatisfiable".into(), true.into());
                }
                actual
            }
            name @ ("renew" | "release") => {
                only(step, &["op", "at_us", "id", "expect"]);
                let (op, word) = match name {
                    "renew" => (PermitOp::Renew(vec![id(step)]), "renewed"),
                    _ => (PermitOp::Release(id(step)), "released"),
                };
                let reply = ask(op, &permits);
                let mut actual = reported(&reply);
                assert_eq!(reply.lasting().len(), 1);
                actual.insert(word.into(), reply.lasting()[0].into());
                actual
            }
            "reconfigure" => {
                only(step, &["op", "at_us", "limit", "expect"]);
                permits = self::permits(object(&step["limit"]));
                reported(&ask(PermitOp::Peek, &permits))
            }
            other => return Err(format!("step {index}: `{other}` is unknown to the runner")),
        };
        if *object(&step["expect"]) != actual {
            return Err(format!(
                "step {index}: {}\n    expected {}\n    actual   {}",
                Value::Object(step.clone()),
                step["expect"],
                Value::Object(actual)
            ));
        }
        // A peek reports the same, and changes nothing.
        let look = reported(&ask(PermitOp::Peek, &permits));
        for (field, value) in &look {
            if step["expect"][field] != *value {
                return Err(format!("step {index}: a look says {field} {value}"));
            }
        }
    }
    Ok(())
}

/// Whether no lease ends, and none is due for renewal.
fn is_without_leases(vector: &Object) -> bool {
    let steps = vector["steps"].as_array().expect("steps");
    let times: Vec<u64> = steps
        .iter()
        .map(|step| number(object(step), "at_us"))
        .collect();
    let lease = number(object(&vector["limit"]), "lease_us");
    times.is_sorted() && times[times.len() - 1] - times[0] < lease / 3
}

/// Runs all vectors that `takes` selects, each with a new subject.
fn run_all<B: PermitBackend>(
    name: &str,
    takes: impl Fn(&Object) -> bool,
    mut subject: impl FnMut(&Runtime) -> (B, ManualClock),
) {
    let (file, runtime) = (read("semaphore.json"), runtime());
    let file = object(&file);
    only(file, &["schema_version", "schema", "algorithm", "vectors"]);
    assert_eq!(file["schema_version"], 1);
    let (mut ran, mut left_out, mut failures) = (0, 0, String::new());
    for (number, vector) in file["vectors"]
        .as_array()
        .expect("vectors")
        .iter()
        .enumerate()
    {
        let vector = object(vector);
        only(vector, &["name", "why", "tags", "limit", "steps", "seed"]);
        if !takes(vector) {
            left_out += 1;
            continue;
        }
        let (backend, clock) = subject(&runtime);
        let key = Key::from(number as u64);
        match run(vector, &backend, &clock, &runtime, &key) {
            Ok(()) => ran += 1,
            Err(why) => write!(
                failures,
                "\nsemaphore.json, {}, {name}: {why}",
                vector["name"]
            )
            .expect("writes"),
        }
    }
    assert!(failures.is_empty(), "{failures}");
    assert!(ran >= 8, "{ran} cases only");
    writeln!(
        std::io::stderr(),
        "semaphore.json on {name}: {ran} cases pass, {left_out} left out"
    )
    .expect("stderr");
}

/// Runs all vectors on one backend, which follows `clock`.
#[cfg(all(feature = "cluster", feature = "sentinel"))]
pub(crate) fn run_on(name: &str, backend: &tower_sluice::RedisBackend, clock: &ManualClock) {
    run_all(name, |_| true, |_| (backend.clone(), clock.clone()));
}

fn stopped() -> ManualClock {
    ManualClock::at(Timestamp::from_micros(0))
}

#[test]
fn memory_with_leases() {
    run_all(
        "memory with leases",
        |_| true,
        |_| {
            let clock = stopped();
            let memory = MemorySemaphore::builder().clock(clock.clone()).leases_end();
            (memory.build(), clock)
        },
    );
}

/// A permit in memory ends with its guard: cases with an expired or renewed lease do not apply.
#[test]
fn memory() {
    run_all("memory", is_without_leases, |_| {
        let clock = stopped();
        let memory = MemorySemaphore::builder().clock(clock.clone());
        (memory.build(), clock)
    });
}

#[test]
fn memory_beside_buckets() {
    run_all("memory beside buckets", is_without_leases, |_| {
        let clock = stopped();
        (MemoryBackend::builder().clock(clock.clone()).build(), clock)
    });
}

#[cfg(feature = "redis")]
mod redis {
    use tower_sluice::backend::redis::adapter::RedisConnection;

    use tower_sluice::{AnyBackend, RedisBackend, RedisSemaphore};

    use super::{Duration, run_all, runtime, stopped};
    use crate::support::frozen::Frozen;
    use crate::support::redis::RedisServer;

    fn run_over<B: super::PermitBackend>(name: &str, make: impl FnOnce(RedisBackend) -> B) {
        let (server, clock) = (RedisServer::start(), stopped());
        let own = runtime();
        let connection = own.block_on(Frozen::connect(&server.url(), &clock));
        let builder = RedisBackend::builder().time_limit(Duration::from_secs(20));
        let mut backend = Some((
            make(builder.from_transport(RedisConnection::new(connection))),
            clock,
        ));
        // The connection belongs to its runtime.
        let _driven = own.enter();
        std::thread::scope(|scope| {
            let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
            scope.spawn(|| own.block_on(async { drop(stopped.await) }));
            let backend = backend.take().expect("once");
            run_all(name, |_| true, |_| (backend.0.clone(), backend.1.clone()));
            drop(stop);
        });
    }

    #[test]
    fn redis() {
        run_over("Redis", |backend| RedisSemaphore::new(&backend));
    }

    #[test]
    fn redis_chosen_at_run_time() {
        run_over("Redis chosen at run time", AnyBackend::from);
    }
}
