//! Replies of a node that prove that it did not run a request: another node has the slot, or no node serves it now.

use std::error::Error;

use super::super::super::{BackendError, BackendErrorKind};
use super::super::error::{is_not_done, is_other_window};
use super::view::NodeAddress;

/// The step after an error of a node.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextStep {
    /// The slot has moved. The map is out of date.
    Moved(NodeAddress),
    /// The slot is moving, and this key has moved already. The next request asks the first node again.
    Ask(NodeAddress),
    /// The request may be sent again at once, with the edges around the time of the node.
    Again,
    /// The request may be sent again after a pause.
    Pause,
    /// The request failed.
    Fail,
}

impl NextStep {
    /// Returns the step after `error` of the node at `asked`.
    pub(super) fn after(error: &BackendError, asked: &NodeAddress) -> Self {
        let code = match error.kind() {
            BackendErrorKind::Server(code) => &**code,
            _ => "",
        };
        match (code, target(error, asked)) {
            ("MOVED", Some(node)) => Self::Moved(node),
            ("ASK", Some(node)) => Self::Ask(node),
            _ if is_other_window(error) => Self::Again,
            _ if is_not_done(error) => Self::Pause,
            _ => Self::Fail,
        }
    }
}

/// Reads the end of `MOVED 3999 127.0.0.1:6381`.
fn target(error: &BackendError, asked: &NodeAddress) -> Option<NodeAddress> {
    let text = error.source()?.to_string();
    NodeAddress::parse(text.split_whitespace().next_back()?, &asked.host)
}

#[cfg(test)]
mod tests {
    use super::super::super::error::from_transport;
    use super::super::super::transport::{ServerError, TransportError, TransportErrorKind};
    use super::*;

    fn step(line: &str) -> NextStep {
        let error = from_transport(ServerError::from_line(line).into());
        NextStep::after(&error, &NodeAddress::new("asked", 1))
    }

    #[test]
    fn redirects_name_their_node_and_other_refusals_pause() {
        let node = NodeAddress::new("127.0.0.1", 6_381);
        assert_eq!(
            step("MOVED 3999 127.0.0.1:6381"),
            NextStep::Moved(node.clone())
        );
        assert_eq!(step("ASK 3999 127.0.0.1:6381"), NextStep::Ask(node));
        assert_eq!(
            step("MOVED 3999 :6381"),
            NextStep::Moved(NodeAddress::new("asked", 6_381))
        );
        for line in [
            "TRYAGAIN Multiple keys request during rehashing of slot",
            "CLUSTERDOWN Hash slot not served",
            "READONLY You can't write against a read only replica.",
            "LOADING Redis is loading the dataset in memory",
            "MOVED",
        ] {
            assert_eq!(step(line), NextStep::Pause, "{line}");
        }
        for line in ["OOM command not allowed", "NOPERM no", "ERR", "WRONGTYPE"] {
            assert_eq!(step(line), NextStep::Fail, "{line}");
        }
    }

    #[test]
    fn missing_reply_is_a_failure_and_a_missing_connection_is_not() {
        let asked = NodeAddress::new("asked", 1);
        let lost = TransportError::new(TransportErrorKind::Io, "reset");
        let unsent = |kind| {
            let cause = TransportError::new(kind, "no connection");
            BackendError::because(BackendErrorKind::Unreachable, cause)
        };
        for (error, expected) in [
            (from_transport(lost), NextStep::Fail),
            (
                BackendError::new(BackendErrorKind::CircuitOpen),
                NextStep::Fail,
            ),
            (unsent(TransportErrorKind::Authentication), NextStep::Fail),
            (unsent(TransportErrorKind::Refused), NextStep::Pause),
            (unsent(TransportErrorKind::Io), NextStep::Pause),
        ] {
            assert_eq!(NextStep::after(&error, &asked), expected, "{error:?}");
        }
    }
}
