//! A Redis whose time is set by a test.
//!
//! Scripts take the time from an optional first argument. Only a connection can set it: the crate never does, and its
//! API cannot.

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Arg, Cmd, Pipeline, RedisFuture, Value};
use tower_sluice::clock::{Clock, ManualClock};

/// A connection that gives scripts the time of a manual clock.
#[derive(Clone)]
pub(crate) struct Frozen {
    inner: MultiplexedConnection,
    clock: ManualClock,
}

impl Frozen {
    pub(crate) async fn connect(url: &str, clock: &ManualClock) -> Self {
        let client = redis::Client::open(url).expect("a URL");
        // The default of redis-rs, half a second, is short on a busy machine.
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
        Self {
            inner: client
                .get_multiplexed_async_connection_with_config(&config)
                .await
                .expect("a server"),
            clock: clock.clone(),
        }
    }

    /// The command with the time as the first argument after the keys.
    fn reported(&self, command: &Cmd) -> Cmd {
        let args: Vec<&[u8]> = command
            .args_iter()
            .map(|arg| match arg {
                Arg::Simple(bytes) => bytes,
                other => panic!("an argument of another kind: {other:?}"),
            })
            .collect();
        if !args[0].starts_with(b"EVAL") {
            return command.clone();
        }
        let keys: usize = std::str::from_utf8(args[2])
            .expect("a number")
            .parse()
            .expect("a number");
        assert_eq!(
            args[3 + keys],
            b"",
            "the backend never passes a time to scripts"
        );
        let mut reported = Cmd::new();
        for (index, arg) in args.into_iter().enumerate() {
            if index == 3 + keys {
                reported.arg(self.clock.now().as_micros());
            } else {
                reported.arg(arg);
            }
        }
        reported
    }
}

impl ConnectionLike for Frozen {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        let reported = self.reported(command);
        Box::pin(async move { self.inner.send_packed_command(&reported).await })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.inner.req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.inner.get_db()
    }
}
