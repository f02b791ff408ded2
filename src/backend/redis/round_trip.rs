//! One round trip: requests of one script as one EVALSHA or EVAL, within the time limit. A command whose reply is
//! missing is not sent again.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::super::{BackendError, BackendErrorKind};
use super::alerts::Alerts;
use super::breaker::Breaker;
use super::error::{
    ConnectTimeout, from_transport, is_broken, is_connection_refused, is_cross_slot, is_not_done,
    is_other_window, is_read_only, is_unknown_script, unexpected_reply, was_not_done,
};
use super::pipeline;
use super::request::{Expiry, ScriptRequest};
use super::source::{BorrowedConnection, ConnectionSource};
use super::transport::Value;
use crate::decision::Reply;
use crate::telemetry;

/// The client that runs scripts: where commands go, the circuit breaker, and the settings of each round trip.
#[derive(Debug)]
pub(super) struct ScriptClient {
    pub(super) source: ConnectionSource,
    pub(super) breaker: Breaker,
    pub(super) alerts: Alerts,
    /// The limit for an operation, connecting included.
    pub(super) time_limit: Duration,
    /// Whether keys of different clients are on different nodes. Then no script can use both.
    pub(super) is_cluster: AtomicBool,
    /// Whether it leads to one node of a cluster. Each request is then a command of its own, because keys of different
    /// slots cannot share one. The router sends again what the node did not do, and reports it.
    pub(super) is_node: bool,
    pub(super) expiry: Expiry,
}

pub(super) type RedisResult<T = Reply> = Result<T, BackendError>;

/// The number of times that a request is sent again after a reply that proves that it was not done.
pub(super) const MOST_REPEATS: u32 = 3;

/// The pause before a request is sent again, for a failover or a start. All pauses together are shorter than the
/// default time limit.
pub(super) const fn pause(repeats: u32) -> Duration {
    Duration::from_millis(5 << repeats)
}

impl ScriptClient {
    pub(super) fn new(
        source: ConnectionSource,
        time_limit: Duration,
        expiry: Expiry,
        is_node: bool,
    ) -> Self {
        Self {
            source,
            breaker: Breaker::new(),
            alerts: Alerts::default(),
            time_limit,
            is_cluster: AtomicBool::new(false),
            is_node,
            expiry,
        }
    }

    /// Logs an event if `error` is a fault that an operator must correct.
    pub(super) fn alert(&self, error: &BackendError) {
        let follows = self.is_node || matches!(self.source, ConnectionSource::Shared(..));
        self.alerts.failed(error, follows);
    }

    /// Returns whether `error` shows that the server failed, and not one operation alone.
    fn failed(&self, error: &BackendError) -> bool {
        // While a node hands over a slot, these errors are no failure of the node.
        let hands_over =
            || matches!(error.kind(), BackendErrorKind::Server(code) if code == "TRYAGAIN");
        error.is_outage() && !(self.is_node && hands_over())
    }

    /// Sends `requests`, which have the same script, and returns one outcome for each.
    pub(super) async fn deliver<R: ScriptRequest>(
        &self,
        requests: &[R],
    ) -> Vec<RedisResult<R::Reply>> {
        self.deliver_to(requests, false).await
    }

    /// As [`deliver`](Self::deliver). With `is_asking` a node runs the requests although their slot is still on its way
    /// to it.
    pub(super) async fn deliver_to<R: ScriptRequest>(
        &self,
        requests: &[R],
        is_asking: bool,
    ) -> Vec<RedisResult<R::Reply>> {
        let permit = if requests.iter().any(R::is_renewal) {
            self.breaker.try_acquire_renewal()
        } else {
            self.breaker.try_acquire()
        };
        let Some(permit) = permit else {
            let error = BackendError::new(BackendErrorKind::CircuitOpen);
            requests
                .iter()
                .for_each(|_| telemetry::backend_failure(error.kind().label()));
            return fail_all(requests, &error);
        };
        let began = Instant::now();
        let mut trip = RoundTrip {
            client: self,
            requests,
            outcomes: requests.iter().map(|_| None).collect(),
            connection: None,
            is_repeated: false,
        };
        let go = async {
            if self.is_node {
                trip.go_once(is_asking).await;
            } else {
                trip.go().await;
            }
        };
        let late = tokio::time::timeout(self.time_limit, go).await.is_err();
        let RoundTrip {
            outcomes,
            connection,
            ..
        } = trip;
        if late && let Some(connection) = &connection {
            // The connection did not answer in time, so it is replaced.
            connection.retire();
        }
        // A request without an outcome was in flight when time was up, or there was no connection.
        let missing = || match &connection {
            Some(_) => BackendError::new(BackendErrorKind::Timeout(self.time_limit)),
            None => BackendError::because(
                BackendErrorKind::Unreachable,
                ConnectTimeout(self.time_limit),
            ),
        };
        let outcomes: Vec<RedisResult<R::Reply>> = outcomes
            .into_iter()
            .map(|outcome| outcome.unwrap_or_else(|| Err(missing())))
            .collect();
        let failed =
            |outcome: &RedisResult<R::Reply>| matches!(outcome, Err(error) if self.failed(error));
        for error in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
            if !(self.is_node && is_not_done(error)) {
                telemetry::backend_failure(error.kind().label());
                self.alert(error);
            }
        }
        let wrote = |(request, outcome): (&R, &RedisResult<R::Reply>)| matches!(outcome, Ok(reply) if request.wrote(reply));
        if requests.iter().zip(&outcomes).any(wrote) {
            self.alerts.wrote();
        }
        if let Some(Err(error)) = outcomes.first()
            && outcomes.iter().all(failed)
        {
            permit.failed(error);
        } else {
            permit.succeeded();
            telemetry::round_trip(began.elapsed());
        }
        outcomes
    }
}

/// Returns the same error for each request.
fn fail_all<R: ScriptRequest>(requests: &[R], error: &BackendError) -> Vec<RedisResult<R::Reply>> {
    requests.iter().map(|_| Err(error.clone())).collect()
}

struct RoundTrip<'a, R: ScriptRequest> {
    client: &'a ScriptClient,
    requests: &'a [R],
    outcomes: Vec<Option<RedisResult<R::Reply>>>,
    /// The connection of the latest attempt.
    connection: Option<BorrowedConnection>,
    /// Whether the requests were sent again after a missing reply.
    is_repeated: bool,
}

impl<R: ScriptRequest> RoundTrip<'_, R> {
    /// Sends the requests until each has its outcome.
    async fn go(&mut self) {
        let mut is_at_once = true;
        for repeats in 0..=MOST_REPEATS {
            if !std::mem::take(&mut is_at_once) {
                tokio::time::sleep(pause(repeats)).await;
            }
            let is_last = repeats == MOST_REPEATS;
            self.connection = None;
            let connection = match self.client.source.borrow().await {
                Ok(connection) => self.connection.insert(connection),
                Err(error) if is_connection_refused(&error) && !is_last => continue,
                Err(error) => return self.fail(&error),
            };
            let open: Vec<&R> = self
                .requests
                .iter()
                .zip(&self.outcomes)
                .filter_map(|(request, outcome)| outcome.is_none().then_some(request))
                .collect();
            let Some(first) = open.first() else { return };
            let script = first.script();
            let expiry = self.client.expiry;
            let eval = || R::command("EVAL", script.text(), &open, expiry);
            let answer = if connection.knows(script) {
                let command = R::command("EVALSHA", script.hash(), &open, expiry);
                let answer = connection.send(&command).await;
                if matches!(&answer, Err(error) if is_unknown_script(error)) {
                    // `EVAL` loads and runs the script in one step, on the node that lacks it.
                    connection.forget_scripts();
                    connection.send(&eval()).await
                } else {
                    answer
                }
            } else {
                connection.send(&eval()).await
            };
            if answer.is_ok() {
                connection.learn(script);
            }
            match answer {
                Ok(answer) => {
                    let takes_writes = self.read(&answer, is_last);
                    if self.outcomes.iter().all(Option::is_some) {
                        return;
                    }
                    is_at_once = takes_writes;
                    if !takes_writes && let Some(connection) = &self.connection {
                        // The next connection may lead to a server that takes writes.
                        connection.retire();
                    }
                }
                Err(error) if is_cross_slot(&error) && open.len() > 1 => {
                    self.client.is_cluster.store(true, Relaxed);
                    return self.one_by_one().await;
                }
                Err(error) if was_not_done(&error) && !is_last => {}
                // The server may have run the command, so only requests that may run twice are sent again.
                Err(error) if R::IS_REPEATABLE && is_broken(&error) && !is_last => {
                    self.is_repeated = true;
                }
                Err(error) => return self.fail(&from_transport(error)),
            }
        }
    }

    /// Sends each request once, as a command of its own.
    async fn go_once(&mut self, is_asking: bool) {
        let connection = match self.client.source.borrow().await {
            Ok(connection) => self.connection.insert(connection),
            Err(error) => return self.fail(&error),
        };
        let expiry = self.client.expiry;
        match pipeline::send_each(connection, self.requests, expiry, is_asking).await {
            Ok(outcomes) => self.outcomes = outcomes.into_iter().map(Some).collect(),
            Err(error) => self.fail(&from_transport(error)),
        }
    }

    /// Sends each request alone, after a cluster has rejected the batch.
    async fn one_by_one(&mut self) {
        for index in 0..self.requests.len() {
            if self.outcomes[index].is_none() {
                let mut alone = RoundTrip {
                    client: self.client,
                    requests: &self.requests[index..=index],
                    outcomes: std::iter::once(None).collect(),
                    connection: None,
                    is_repeated: self.is_repeated,
                };
                Box::pin(alone.go()).await;
                self.outcomes[index] = alone.outcomes.pop().flatten();
            }
        }
    }

    /// Reads the replies, and returns whether the server takes writes. Errors of a server that takes none stay open,
    /// and those of a server whose time is in no window of a request, except in the last attempt.
    fn read(&mut self, answer: &Value, is_last: bool) -> bool {
        let Value::Array(answers) = answer else {
            self.fail(&unexpected_reply());
            return true;
        };
        let mut takes_writes = true;
        let mut answers = answers.iter();
        for (request, outcome) in self.requests.iter().zip(&mut self.outcomes) {
            if outcome.is_none() {
                let mut read = request
                    .read(&mut answers)
                    .unwrap_or_else(|| Err(unexpected_reply()));
                if self.is_repeated
                    && let Ok(reply) = &mut read
                {
                    R::note_repeat(reply);
                }
                let is_refused = matches!(&read, Err(error) if is_read_only(error));
                takes_writes &= !is_refused;
                let is_open = is_refused || matches!(&read, Err(error) if is_other_window(error));
                *outcome = (!is_open || is_last).then_some(read);
            }
        }
        takes_writes
    }

    fn fail(&mut self, error: &BackendError) {
        for outcome in &mut self.outcomes {
            outcome.get_or_insert_with(|| Err(error.clone()));
        }
    }
}
