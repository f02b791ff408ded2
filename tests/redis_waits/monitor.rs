//! The commands of a server, in the order of their execution.
//!
//! The maximum wait identifies a waiter: it is an argument of the script that reserves.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::support::redis::RedisServer;

/// The maximum wait of the first waiter. Each further waiter has one µs more.
const FIRST: u64 = 77_000_000_000;

/// The largest number of waiters.
const MOST: u64 = 1_000_000;

/// The maximum wait that identifies a waiter.
pub(crate) fn max_wait(number: u64) -> Duration {
    assert!(number < MOST);
    Duration::from_micros(FIRST + number)
}

/// Records all commands of a server until it is read.
pub(crate) struct Monitor {
    stream: TcpStream,
    reader: JoinHandle<Vec<String>>,
}

impl Monitor {
    pub(crate) fn of(server: &RedisServer) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port())).expect("the server runs");
        stream.write_all(b"MONITOR\r\n").expect("the server runs");
        let mut lines = BufReader::new(stream.try_clone().expect("a socket"));
        let mut first = String::new();
        lines.read_line(&mut first).expect("the backend replies");
        assert_eq!(first, "+OK\r\n");
        let reader = thread::spawn(move || lines.lines().map_while(Result::ok).collect());
        Self { stream, reader }
    }

    /// The waiters that have reserved so far, in the order of the server. Each one must have sent one command.
    pub(crate) fn order(self, server: &RedisServer) -> Vec<u64> {
        // This command is recorded after all earlier ones.
        server.command(&["ECHO", "the end"]);
        thread::sleep(Duration::from_millis(50));
        self.stream.shutdown(Shutdown::Both).expect("a socket");
        let lines = self.reader.join().expect("no panic");
        assert!(lines.iter().any(|queue| queue.ends_with("\"the end\"")));
        // +1339518083.107412 [0 127.0.0.1:60866] "EVALSHA" ..
        let commands = lines.iter().filter(|queue| queue.contains("] \"EVAL"));
        let number = |word: &str| {
            let wait: u64 = word.parse().ok()?;
            wait.checked_sub(FIRST).filter(|number| *number < MOST)
        };
        let order: Vec<_> = commands
            .flat_map(|queue| queue.split('"').filter_map(number))
            .collect();
        let different: BTreeSet<_> = order.iter().collect();
        assert_eq!(different.len(), order.len(), "a request was sent twice");
        order
    }
}
