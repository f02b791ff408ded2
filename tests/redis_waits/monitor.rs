//! What a server was asked, in the order in which it did it.
//!
//! Waiters are told apart by how long they would wait: that is an argument of the script that makes a reservation.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::support::redis::RedisServer;

/// The longest wait of the first waiter, and one µs more of each that follows.
const FIRST: u64 = 77_000_000_000;

/// No more waiters than this are told apart.
const MOST: u64 = 1_000_000;

/// The longest wait by which a waiter is known.
pub(crate) fn max_wait(number: u64) -> Duration {
    assert!(number < MOST);
    Duration::from_micros(FIRST + number)
}

/// Writes down all that a server does, until it is read.
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

    /// Those who asked for a reservation until now, in the order in which the server heard them. Each must have asked
    /// once.
    pub(crate) fn order(self, server: &RedisServer) -> Vec<u64> {
        // Once it has done this, it has shown all that was before.
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
