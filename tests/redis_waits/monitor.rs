//! What a server was asked, in the order in which it did it.
//!
//! Waiters are told apart by how long they would wait: that is an argument of the script that reserves a turn.

use std::collections::BTreeMap;
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

/// A turn that was reserved, or refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reserved {
    /// Whose it is.
    pub(crate) number: u64,
    /// When the server did it, µs since the epoch.
    pub(crate) at: u64,
}

/// Writes down all that a server does, until it is read.
pub(crate) struct Monitor {
    stream: TcpStream,
    reader: JoinHandle<Vec<String>>,
}

impl Monitor {
    pub(crate) fn of(server: &RedisServer) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port())).expect("it runs");
        stream.write_all(b"MONITOR\r\n").expect("it runs");
        let mut lines = BufReader::new(stream.try_clone().expect("a socket"));
        let mut first = String::new();
        lines.read_line(&mut first).expect("it answers");
        assert_eq!(first, "+OK\r\n");
        let reader = thread::spawn(move || lines.lines().map_while(Result::ok).collect());
        Self { stream, reader }
    }

    /// All turns that were reserved or refused until now, in the order in which they were.
    pub(crate) fn reserved(self, server: &RedisServer) -> Vec<Reserved> {
        // Once it has done this, it has shown all that was before.
        server.command(&["ECHO", "the end"]);
        thread::sleep(Duration::from_millis(50));
        self.stream.shutdown(Shutdown::Both).expect("a socket");
        let lines = self.reader.join().expect("no panic");
        assert!(lines.iter().any(|line| line.ends_with("\"the end\"")));
        let mut reserved = Vec::new();
        for line in lines {
            // +1339518083.107412 [0 127.0.0.1:60866] "EVALSHA" ..
            let Some((time, command)) = line.split_once(" [0 127.0.0.1:") else {
                continue;
            };
            let Some((_, command)) = command.split_once("] \"EVAL") else {
                continue;
            };
            let time = time.trim_start_matches('+').replace('.', "");
            let at = time.parse().expect("a time");
            for word in command.split('"') {
                let number = word
                    .parse::<u64>()
                    .ok()
                    .and_then(|wait| wait.checked_sub(FIRST));
                if let Some(number) = number.filter(|number| *number < MOST) {
                    reserved.push(Reserved { number, at });
                }
            }
        }
        reserved
    }
}

/// The place of each number in a list without repetitions.
pub(crate) fn places(reserved: &[Reserved]) -> BTreeMap<u64, usize> {
    let places: BTreeMap<_, _> = (0..)
        .zip(reserved)
        .map(|(place, r)| (r.number, place))
        .collect();
    assert_eq!(places.len(), reserved.len(), "nobody is asked for twice");
    places
}
