//! For how long a client waits for an answer.

use std::time::Duration;

use http::{Extensions, HeaderMap};

use crate::clock::Timestamp;
use crate::wait::Deadline;

/// What the request says of it: the shorter of its [`Deadline`] and its `grpc-timeout`.
pub(super) fn of(headers: &HeaderMap, extensions: &Extensions, now: Timestamp) -> Option<Duration> {
    let deadline = extensions.get::<Deadline>();
    let left = deadline.map(|deadline| Duration::from_micros(deadline.time().micros_since(now)));
    let timeout = headers.get("grpc-timeout");
    let timeout = timeout.and_then(|timeout| grpc_timeout(timeout.as_bytes()));
    left.into_iter().chain(timeout).min()
}

/// `1*8DIGIT` and a unit (PROTOCOL-HTTP2 of gRPC, "Timeout"). What is not that is no deadline.
fn grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(count * 3_600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_timeout_of_grpc_is_up_to_eight_digits_and_a_unit() {
        let hours = Duration::from_secs(99_999_999 * 3_600);
        assert_eq!(grpc_timeout(b"99999999H"), Some(hours));
        for (text, millis) in [("2M", 120_000), ("0S", 0), ("250m", 250), ("7000u", 7)] {
            let expected = Some(Duration::from_millis(millis));
            assert_eq!(grpc_timeout(text.as_bytes()), expected, "{text}");
        }
        assert_eq!(grpc_timeout(b"5n"), Some(Duration::from_nanos(5)));
        for text in [
            "",
            "S",
            "1",
            "1s",
            "-1S",
            "+1S",
            "1 S",
            "123456789S",
            "1.5S",
            "\u{ff11}S",
        ] {
            assert_eq!(grpc_timeout(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn the_shorter_of_both_counts() {
        let now = Timestamp::from_micros(1_000_000);
        let (mut headers, mut extensions) = (HeaderMap::new(), Extensions::new());
        assert_eq!(of(&headers, &extensions, now), None);
        headers.insert("grpc-timeout", HeaderValue::from_static("2S"));
        assert_eq!(of(&headers, &extensions, now), Some(Duration::from_secs(2)));
        extensions.insert(Deadline::at(Timestamp::from_micros(1_500_000)));
        let half = Some(Duration::from_millis(500));
        assert_eq!(of(&headers, &extensions, now), half);
        let late = Timestamp::from_micros(9_000_000);
        assert_eq!(of(&headers, &extensions, late), Some(Duration::ZERO));
    }
}
