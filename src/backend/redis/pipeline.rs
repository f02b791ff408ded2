//! Requests as single commands, all written at once: the way to one node of a cluster. Keys of different slots cannot
//! share a script.

use std::borrow::Borrow;

use smallvec::SmallVec;

use super::super::BackendError;
use super::error::{from_transport, is_broken, is_unknown_script, unexpected_reply};
use super::request::{Expiry, ScriptRequest};
use super::source::BorrowedConnection;
use super::transport::{Command, TransportError, Value};

/// Sends each request once and returns one outcome for each. A script that the node lacks is sent as its text.
///
/// With `is_asking` an `ASKING` stands in front of each command. Both are in one write, because the server forgets it
/// after the next command of the connection.
pub(super) async fn send_each<R: ScriptRequest>(
    connection: &BorrowedConnection,
    requests: &[R],
    expiry: Expiry,
    is_asking: bool,
) -> Result<Vec<Result<R::Reply, BackendError>>, TransportError> {
    let replies = send::<R, _>(connection, requests, expiry, is_asking, true).await?;
    let mut outcomes: Vec<Option<Result<R::Reply, BackendError>>> = Vec::new();
    let mut lacking: SmallVec<[&R; 1]> = SmallVec::new();
    for (request, reply) in requests.iter().zip(replies) {
        outcomes.push(match reply {
            Err(error) if is_unknown_script(&error) => {
                lacking.push(request);
                None
            }
            reply => Some(read(connection, request, reply)),
        });
    }
    if !lacking.is_empty() {
        connection.forget_scripts();
        let replies = send::<R, _>(connection, &lacking, expiry, is_asking, false).await;
        let open = outcomes.iter_mut().filter(|outcome| outcome.is_none());
        match replies {
            Ok(replies) => {
                for ((outcome, request), reply) in open.zip(lacking).zip(replies) {
                    *outcome = Some(read(connection, request, reply));
                }
            }
            Err(error) => {
                let error = from_transport(error);
                open.for_each(|outcome| *outcome = Some(Err(error.clone())));
            }
        }
    }
    let missing = || Err(unexpected_reply());
    Ok(outcomes
        .into_iter()
        .map(|outcome| outcome.unwrap_or_else(missing))
        .collect())
}

/// Returns one reply for each request.
async fn send<R: ScriptRequest, Q: Borrow<R>>(
    connection: &BorrowedConnection,
    requests: &[Q],
    expiry: Expiry,
    is_asking: bool,
    by_hash: bool,
) -> Result<Vec<Result<Value, TransportError>>, TransportError> {
    let mut commands = Vec::with_capacity(requests.len() * if is_asking { 2 } else { 1 });
    for request in requests {
        let request: &R = request.borrow();
        let script = request.script();
        if is_asking {
            commands.push(Command::new("ASKING"));
        }
        commands.push(if by_hash && connection.knows(script) {
            R::command("EVALSHA", script.hash(), &[request], expiry)
        } else {
            R::command("EVAL", script.text(), &[request], expiry)
        });
    }
    let replies = match &*commands {
        // A single command needs no pipeline.
        [command] => vec![match connection.send(command).await {
            Err(error) if error.server_error().is_none() => return Err(error),
            reply => reply,
        }],
        commands => {
            let replies = connection.send_all(commands).await;
            let replies = replies.inspect_err(|error| {
                if is_broken(error) {
                    connection.retire();
                }
            })?;
            let step = if is_asking { 2 } else { 1 };
            let replies = replies.into_iter().skip(step - 1).step_by(step);
            replies.map(Value::into_result).collect()
        }
    };
    Ok(replies)
}

fn read<R: ScriptRequest>(
    connection: &BorrowedConnection,
    request: &R,
    reply: Result<Value, TransportError>,
) -> Result<R::Reply, BackendError> {
    match reply {
        Ok(Value::Array(answers)) => {
            connection.learn(request.script());
            let read = request.read(&mut answers.iter());
            read.unwrap_or_else(|| Err(unexpected_reply()))
        }
        Ok(_) => Err(unexpected_reply()),
        Err(error) => {
            if is_broken(&error) {
                connection.retire();
            }
            Err(from_transport(error))
        }
    }
}
