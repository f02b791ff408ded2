//! The deadline of a request.

use std::time::Duration;

use http::{Extensions, HeaderMap};

use crate::clock::Timestamp;
use crate::wait::Deadline;

/// Returns the earlier of the [`Deadline`] in the extensions and the end of the `grpc-timeout`. The latter is stored as
/// a deadline, so that the timeout does not start again in the next layer.
pub(super) fn from_request(
    headers: &HeaderMap,
    extensions: &mut Extensions,
    now: Timestamp,
) -> Option<Deadline> {
    let known = extensions.get::<Deadline>().copied();
    if extensions.get::<TimeoutRead>().is_some() {
        return known;
    }
    let timeout = headers.get("grpc-timeout");
    let Some(timeout) = timeout.and_then(|timeout| grpc_timeout(timeout.as_bytes())) else {
        return known;
    };
    let end = Deadline::at(now.after(timeout));
    let end = known.map_or(end, |known| known.min(end));
    extensions.insert(end);
    extensions.insert(TimeoutRead);
    Some(end)
}

/// A mark in the extensions: `grpc-timeout` has been read.
#[derive(Clone)]
struct TimeoutRead;

/// Parses `1*8DIGIT` and a unit (PROTOCOL-HTTP2 of gRPC, "Timeout"). Any other text is no deadline.
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
    fn sooner_deadline_counts_from_the_first_layer() {
        let at = |micros| Timestamp::from_micros(micros);
        let (mut headers, mut extensions) = (HeaderMap::new(), Extensions::new());
        assert_eq!(from_request(&headers, &mut extensions, at(1)), None);
        headers.insert("grpc-timeout", HeaderValue::from_static("2S"));
        let end = Some(Deadline::at(at(3_000_000)));
        assert_eq!(from_request(&headers, &mut extensions, at(1_000_000)), end);
        assert_eq!(
            from_request(&headers, &mut extensions, at(2_000_000)),
            end,
            "further in"
        );
        assert_eq!(extensions.get(), end.as_ref());
        let mut sooner = Extensions::new();
        let half = Deadline::at(at(1_500_000));
        sooner.insert(half);
        assert_eq!(
            from_request(&headers, &mut sooner, at(1_000_000)),
            Some(half)
        );
    }
}
