//! The bounds of requests and replies in a stream of bytes (RESP2).

use std::io;

use tokio::io::AsyncReadExt;
use tokio::net::tcp::OwnedReadHalf;

/// The whole requests or replies of a stream.
pub(super) struct Frames {
    from: OwnedReadHalf,
    read: Vec<u8>,
}

impl Frames {
    pub(super) const fn of(from: OwnedReadHalf) -> Self {
        Self {
            from,
            read: Vec::new(),
        }
    }

    /// `None` at the end of the stream.
    pub(super) async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(length) = frame(&self.read) {
                let rest = self.read.split_off(length);
                return Ok(Some(std::mem::replace(&mut self.read, rest)));
            }
            if self.from.read_buf(&mut self.read).await? == 0 {
                return Ok(None);
            }
        }
    }
}

/// The length of the first value of `bytes`, if it is complete.
fn frame(bytes: &[u8]) -> Option<usize> {
    let line = bytes.windows(2).position(|two| two == b"\r\n")?;
    let head = line + 2;
    let number = || -> i64 {
        let digits = std::str::from_utf8(&bytes[1..line]).expect("a length in digits");
        digits.parse().expect("a length in digits")
    };
    match bytes[0] {
        b'+' | b'-' | b':' => Some(head),
        b'$' => {
            let end = usize::try_from(number()).map_or(head, |length| head + length + 2);
            (end <= bytes.len()).then_some(end)
        }
        b'*' => {
            (0..number().max(0)).try_fold(head, |start, _| Some(start + frame(&bytes[start..])?))
        }
        other => panic!("no value of RESP2 starts with {:?}", char::from(other)),
    }
}

/// The command name of a request: `*3\r\n$7\r\nEVALSHA\r\n..`
pub(super) fn first_word(request: &[u8]) -> String {
    let word = request
        .split(|byte| *byte == b'\n')
        .nth(2)
        .expect("an array of strings");
    String::from_utf8_lossy(word).trim_end().to_uppercase()
}
