//! The check of the server by `connect`: a charge and a reset, on a key of its own.

use super::super::BackendError;
use super::atomicity::Atomicity;
use super::error::{from_transport, unexpected_reply};
use super::key_name::Naming;
use super::optimistic;
use super::request::OpRequest;
use super::round_trip::ScriptClient;
use super::source::ConnectionSource;
use super::transport::{Command, Value};
use crate::decision::Op;
use crate::key::Key;
use crate::policy::Policy;
use crate::quota::{Cost, Quota};

/// The policy name of the key: `{sluice:tower-sluice-connect:rprobe}:b`.
const POLICY: &str = "tower-sluice-connect";
/// The number of keys that are read. A node of a cluster does not have all of them.
const SLOTS: usize = 16;
/// The attempts in optimistic mode, where each has the time limit of an operation.
const ATTEMPTS: u32 = 4;

/// Charges a key and deletes it. If the process ends in between, the key expires after a second.
pub(super) async fn run(
    client: &ScriptClient,
    naming: &Naming,
    atomicity: Atomicity,
) -> Result<(), BackendError> {
    let policy = Policy::new(POLICY, Quota::per_second(1_000));
    let request = |op, key: Key| OpRequest::new(op, &policy, naming.name(POLICY, &key));
    let check = request(Op::Check(Cost::new(1)), Key::from("probe"));
    let reset = request(Op::Reset, Key::from("probe"));
    let ConnectionSource::Pool(_) = &client.source else {
        return Ok(());
    };
    let connection = client.source.borrow().await?;
    let mut look = Vec::with_capacity(SLOTS);
    for slot in 0..SLOTS {
        let mut key = naming.name(POLICY, &Key::from(slot as u64));
        key.push(b'b');
        let mut get = Command::new("GET");
        get.arg(&key[..]);
        look.push(get);
    }
    for answer in connection.send_all(&look).await.map_err(from_transport)? {
        answer.into_result().map_err(from_transport)?;
    }
    match atomicity {
        Atomicity::Script => {
            let (script, expiry) = (check.script(), client.expiry);
            let text = script.text();
            let charge = OpRequest::command("EVAL", text, &[&check], expiry);
            // It has no request, because the error for an unknown command repeats the arguments.
            let empty = OpRequest::command("EVALSHA", script.hash(), &[], expiry);
            let text = reset.script().text();
            let delete = OpRequest::command("EVAL", text, &[&reset], expiry);
            let commands = [charge, empty, delete];
            let answers = connection
                .send_all(&commands)
                .await
                .map_err(from_transport)?;
            for (request, answer) in [Some(&check), None, Some(&reset)].into_iter().zip(answers) {
                let answer = answer.into_result().map_err(from_transport)?;
                let Value::Array(answer) = answer else {
                    return Err(unexpected_reply());
                };
                let Some(request) = request else { continue };
                let reply = request.read(&mut answer.iter());
                let _ = reply.unwrap_or_else(|| Err(unexpected_reply()))?;
            }
            connection.learn(script);
        }
        Atomicity::Optimistic => {
            for request in [&check, &reset] {
                let mut attempt = 1;
                while let Err(error) = optimistic::deliver(client, request).await {
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
