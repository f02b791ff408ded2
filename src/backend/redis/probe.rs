//! What `connect` finds out about the server: a check and a reset, on keys of its own.

use bb8_redis::redis::{Pipeline, Value, pipe};

use super::super::BackendError;
use super::atomicity::Atomicity;
use super::error::{from_redis, unexpected_reply};
use super::key_name::Naming;
use super::optimistic;
use super::request::OpRequest;
use super::round_trip::ScriptClient;
use super::source::ConnectionSource;
use crate::decision::Op;
use crate::key::Key;
use crate::policy::Policy;
use crate::quota::{Cost, Quota};

/// The name of the policy of its keys: `{sluice:tower-sluice-connect:rprobe}:b`.
const POLICY: &str = "tower-sluice-connect";
/// Keys that are looked for: a node of a cluster has not all of them.
const SLOTS: usize = 16;
/// Attempts in optimistic mode, which has no more time than any operation.
const ATTEMPTS: u32 = 4;

/// Charges a key, and deletes it. A key that is left behind, as the process ends in between, expires after a second.
pub(super) async fn run(
    line: &ScriptClient,
    naming: &Naming,
    atomicity: Atomicity,
) -> Result<(), BackendError> {
    let policy = Policy::new(POLICY, Quota::per_second(1_000));
    let request = |op, key: Key| OpRequest {
        name: naming.name(POLICY, &key),
        policy: policy.clone(),
        op,
    };
    let check = request(Op::Check(Cost::new(1)), Key::from("probe"));
    let reset = request(Op::Reset, Key::from("probe"));
    let ConnectionSource::Pool(_) = &line.source else {
        return Ok(());
    };
    let mut lent = line.source.borrow().await?;
    let mut look = pipe();
    for slot in 0..SLOTS {
        let mut key = request(Op::Reset, Key::from(slot as u64)).name;
        key.push(b'b');
        look.cmd("GET").arg(&key[..]);
    }
    for answer in lent.send_all(&look, SLOTS).await.map_err(from_redis)? {
        answer.extract_error().map_err(from_redis)?;
    }
    match atomicity {
        Atomicity::Script => {
            let mut ask = Pipeline::new();
            let (script, expiry) = (check.script(), line.expiry);
            ask.add_command(OpRequest::command("EVAL", script.text(), &[&check], expiry));
            // Without a request, as the error of a server that does not know the command repeats its arguments.
            ask.add_command(OpRequest::command("EVALSHA", script.hash(), &[], expiry));
            let text = reset.script().text();
            ask.add_command(OpRequest::command("EVAL", text, &[&reset], expiry));
            let answers = lent.send_all(&ask, 3).await.map_err(from_redis)?;
            for (request, answer) in [Some(&check), None, Some(&reset)].into_iter().zip(answers) {
                let answer = answer.extract_error().map_err(from_redis)?;
                let Value::Array(answer) = answer else {
                    return Err(unexpected_reply());
                };
                let Some(request) = request else { continue };
                let reply = request.read(&mut answer.iter());
                let _ = reply.unwrap_or_else(|| Err(unexpected_reply()))?;
            }
            lent.learn(script);
        }
        Atomicity::Optimistic => {
            for request in [&check, &reset] {
                let mut attempt = 1;
                while let Err(error) = optimistic::deliver(line, request).await {
                    if attempt == ATTEMPTS || !error.is_outage() {
                        return Err(error);
                    }
                    attempt += 1;
                }
            }
        }
    }
    Ok(())
}
