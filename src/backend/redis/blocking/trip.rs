//! One trip to Redis from a plain thread: one operation as one EVALSHA, within the time limit, and never twice if it may have
//! been done.

use std::thread;
use std::time::{Duration, Instant};

use bb8_redis::redis::{ErrorKind, ServerErrorKind, Value};

use super::super::super::{BackendError, BackendErrorKind};
use super::super::breaker::Breaker;
use super::super::fault::{garbled, is_broken, is_read_only, is_refusal, of_redis, was_not_done};
use super::super::request::{Ask, Expiry};
use super::super::trip::{MOST_REPEATS, Outcome, pause};
use super::connections::{Connections, left};
use crate::report;

/// What every trip needs.
pub(super) struct Line {
    pub(super) connections: Connections,
    pub(super) breaker: Breaker,
    /// For the whole of it, connecting included.
    pub(super) time_limit: Duration,
    pub(super) expiry: Expiry,
}

impl Line {
    /// Does one request.
    pub(super) fn deliver<R: Ask>(&self, request: &R) -> Outcome<R::Reply> {
        let permit = if request.keeps() {
            self.breaker.admit_keeping()
        } else {
            self.breaker.admit()
        };
        let Some(permit) = permit else {
            let error = BackendError::new(BackendErrorKind::CircuitOpen);
            report::failure(&error);
            return Err(error);
        };
        let deadline = Instant::now() + self.time_limit;
        let mut since = None;
        let began = Instant::now();
        let outcome = self.go(request, deadline, &mut since);
        match &outcome {
            Ok(_) => report::trip(began.elapsed()),
            Err(error) => report::failure(error),
        }
        match &outcome {
            Err(error) if error.is_outage() => {
                // Most of the time may have gone by while others had the connections, and not while Redis was asked: a crowd
                // must not open the circuit.
                let own = since.map_or(Duration::ZERO, |since: Instant| since.elapsed());
                if left(deadline).is_zero() && own < self.time_limit / 2 {
                    drop(permit);
                } else {
                    permit.failed();
                }
            }
            _ => permit.succeeded(),
        }
        outcome
    }

    /// Until the request has its outcome, or may not be sent again.
    fn go<R: Ask>(
        &self,
        request: &R,
        deadline: Instant,
        since: &mut Option<Instant>,
    ) -> Outcome<R::Reply> {
        let (mut repeats, mut is_repeated) = (0, false);
        loop {
            let undone = match self.attempt(request, deadline, since) {
                Attempt::Ended(mut outcome) => {
                    if is_repeated && let Ok(reply) = &mut outcome {
                        R::note_repeat(reply);
                    }
                    return outcome;
                }
                Attempt::NotDone(error) => error,
                Attempt::Unknown(error) => {
                    is_repeated = true;
                    error
                }
            };
            repeats += 1;
            let pause = pause(repeats);
            if repeats > MOST_REPEATS || left(deadline) <= pause {
                return Err(undone);
            }
            thread::sleep(pause);
        }
    }

    fn attempt<R: Ask>(
        &self,
        request: &R,
        deadline: Instant,
        since: &mut Option<Instant>,
    ) -> Attempt<R::Reply> {
        let mut lent = match self.connections.check_out(deadline, since) {
            Ok(lent) => lent,
            Err(error) if is_refusal(&error) => return Attempt::NotDone(error),
            Err(error) => return Attempt::Ended(Err(error)),
        };
        let script = request.script();
        let mut ask = |name, script| {
            let command = R::command(name, script, &[request], self.expiry);
            lent.send(&command, deadline)
        };
        let mut answer = ask("EVALSHA", script.hash());
        if matches!(&answer, Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript))
        {
            // Done and loaded in one step.
            answer = ask("EVAL", script.text());
        }
        match answer {
            Ok(Value::Array(answers)) => {
                let read = request.read(&mut answers.iter());
                match read.unwrap_or_else(|| Err(garbled())) {
                    // A server that takes no writes was asked; the next connection may lead to one that does.
                    Err(error) if is_read_only(&error) => {
                        lent.retire();
                        Attempt::NotDone(error)
                    }
                    outcome => Attempt::Ended(outcome),
                }
            }
            Ok(_) => Attempt::Ended(Err(garbled())),
            Err(error) if was_not_done(&error) => Attempt::NotDone(of_redis(error)),
            Err(error) if R::IS_REPEATABLE && is_broken(&error) && !error.is_timeout() => {
                Attempt::Unknown(of_redis(error))
            }
            Err(error) if error.is_timeout() => Attempt::Ended(Err(BackendError::new(
                BackendErrorKind::Timeout(self.time_limit),
            ))),
            Err(error) => Attempt::Ended(Err(of_redis(error))),
        }
    }
}

enum Attempt<T> {
    Ended(Outcome<T>),
    /// Provably.
    NotDone(BackendError),
    /// It may have been done, but done twice it is as if done once.
    Unknown(BackendError),
}
