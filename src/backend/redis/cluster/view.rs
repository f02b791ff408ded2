//! The slots of a cluster as one of its nodes sees them: the replies to `CLUSTER INFO` and `CLUSTER SLOTS`.

use std::fmt;
use std::ops::RangeInclusive;

use super::super::transport::{Command, Value};
use super::slot::SLOTS;

/// The address of a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in super::super) struct NodeAddress {
    pub(super) host: Box<str>,
    pub(super) port: u16,
}

impl NodeAddress {
    pub(super) fn new(host: &str, port: u16) -> Self {
        let host = host.into();
        Self { host, port }
    }

    /// Reads `host:port`. An empty host means the node that was asked.
    pub(super) fn parse(text: &str, asked: &str) -> Option<Self> {
        // `host:port@bus-port` is a form of older servers.
        let text = text.split('@').next()?;
        let (host, port) = text.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let host = if host.is_empty() { asked } else { host };
        Some(Self::new(host, port.parse().ok()?))
    }
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The slots as one node sees them.
#[derive(Debug)]
pub(super) struct ClusterView {
    /// The latest configuration that the node knows of. A node that lost its cluster knows an older one.
    pub(super) epoch: u64,
    /// Whether the node serves requests.
    pub(super) is_up: bool,
    pub(super) ranges: Vec<(RangeInclusive<usize>, NodeAddress)>,
    pub(super) replicas: Vec<NodeAddress>,
}

impl ClusterView {
    /// The commands that ask a node for its view.
    pub(super) fn questions() -> [Command; 2] {
        ["INFO", "SLOTS"].map(|word| {
            let mut command = Command::new("CLUSTER");
            command.arg(word);
            command
        })
    }

    /// Reads the replies to [`questions`](Self::questions) of the node `asked`. Returns `None` if the slots cannot be
    /// read, or if there are none.
    pub(super) fn read(info: &Value, slots: &Value, asked: &str) -> Option<Self> {
        let Value::Array(ranges) = slots else {
            return None;
        };
        let info = match info {
            Value::Bytes(text) => String::from_utf8_lossy(text),
            // The user may lack the right to read it.
            _ => "".into(),
        };
        let field = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::trim)
        };
        let mut view = Self {
            epoch: field("cluster_current_epoch:").map_or(0, |epoch| epoch.parse().unwrap_or(0)),
            is_up: field("cluster_state:").is_none_or(|state| state == "ok"),
            ranges: Vec::with_capacity(ranges.len()),
            replicas: Vec::new(),
        };
        for range in ranges {
            let Value::Array(parts) = range else {
                return None;
            };
            let [first, last, primary, replicas @ ..] = &**parts else {
                return None;
            };
            let (first, last) = (slot(first)?, slot(last)?);
            view.ranges.push((first..=last, address(primary, asked)?));
            let replicas = replicas.iter().filter_map(|node| address(node, asked));
            view.replicas.extend(replicas);
        }
        (!view.ranges.is_empty()).then_some(view)
    }
}

fn slot(value: &Value) -> Option<usize> {
    match value {
        Value::Integer(number) => usize::try_from(*number).ok().filter(|slot| *slot < SLOTS),
        _ => None,
    }
}

/// Reads a node: its host, its port, its id, and since Redis 7.0 pairs such as `ip` and an address.
///
/// A host that is missing or empty is the one that was asked. `?` is the host of a node that should announce its name
/// and has none; its `ip` is used.
fn address(node: &Value, asked: &str) -> Option<NodeAddress> {
    let Value::Array(parts) = node else {
        return None;
    };
    let [host, Value::Integer(port), rest @ ..] = &**parts else {
        return None;
    };
    let host = match host {
        Value::Bytes(host) => std::str::from_utf8(host).ok()?,
        _ => "",
    };
    let host = match host {
        "" => asked,
        "?" => rest.get(1).and_then(ip).unwrap_or(asked),
        host => host,
    };
    Some(NodeAddress::new(host, u16::try_from(*port).ok()?))
}

fn ip(pairs: &Value) -> Option<&str> {
    let Value::Array(pairs) = pairs else {
        return None;
    };
    pairs.chunks_exact(2).find_map(|pair| match pair {
        [Value::Bytes(name), Value::Bytes(ip)] if name == b"ip" => std::str::from_utf8(ip).ok(),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::Bytes(text.as_bytes().to_vec())
    }

    fn node(host: Value, port: i64, pairs: &[&str]) -> Value {
        let pairs = Value::Array(pairs.iter().map(|part| text(part)).collect());
        Value::Array(vec![host, Value::Integer(port), text("id"), pairs])
    }

    fn read(info: &str, ranges: Vec<Value>) -> Option<ClusterView> {
        ClusterView::read(&text(info), &Value::Array(ranges), "asked")
    }

    fn range(first: i64, last: i64, nodes: Vec<Value>) -> Value {
        let mut parts = vec![Value::Integer(first), Value::Integer(last)];
        parts.extend(nodes);
        Value::Array(parts)
    }

    #[test]
    fn every_form_of_a_host_is_read() {
        for (host, pairs, expected) in [
            (text("10.0.0.1"), &[][..], "10.0.0.1:7000"),
            (text("one.example"), &["ip", "10.0.0.1"], "one.example:7000"),
            (text(""), &[], "asked:7000"),
            (Value::Nil, &["ip", "10.0.0.1"], "asked:7000"),
            (
                text("?"),
                &["hostname", "", "ip", "10.0.0.1"],
                "10.0.0.1:7000",
            ),
            (text("?"), &[], "asked:7000"),
            (text("::1"), &[], "::1:7000"),
        ] {
            let ranges = vec![range(0, 16_383, vec![node(host, 7_000, pairs)])];
            let view = read("", ranges).expect("a view");
            assert_eq!(view.ranges[0].0, 0..=16_383);
            assert_eq!(view.ranges[0].1.to_string(), expected);
        }
    }

    #[test]
    fn state_epoch_and_replicas_are_read() {
        let ranges = || {
            vec![
                range(
                    0,
                    99,
                    vec![node(text("a"), 1, &[]), node(text("b"), 2, &[])],
                ),
                range(200, 16_383, vec![node(text("c"), 3, &[])]),
            ]
        };
        let info = "cluster_state:fail\r\ncluster_current_epoch:7\r\n";
        let view = read(info, ranges()).expect("a view");
        assert!(!view.is_up);
        assert_eq!((view.epoch, view.ranges.len()), (7, 2));
        assert_eq!(view.replicas, [NodeAddress::new("b", 2)]);
        let denied = ClusterView::read(&Value::Nil, &Value::Array(ranges()), "asked");
        assert!(denied.is_some_and(|view| view.is_up && view.epoch == 0));
    }

    #[test]
    fn replies_of_another_form_are_no_view() {
        assert!(
            read("", vec![]).is_none(),
            "a node that was never joined to a cluster"
        );
        assert!(read("", vec![Value::Nil]).is_none());
        let beyond = range(0, 16_384, vec![node(text("a"), 1, &[])]);
        assert!(read("", vec![beyond]).is_none());
        assert!(read("", vec![range(0, 1, vec![])]).is_none());
        let port = range(0, 1, vec![node(text("a"), 65_536, &[])]);
        assert!(read("", vec![port]).is_none());
    }

    #[test]
    fn addresses_of_redirects_are_read() {
        let parse = |text| NodeAddress::parse(text, "asked").map(|address| address.to_string());
        assert_eq!(parse("127.0.0.1:7001").as_deref(), Some("127.0.0.1:7001"));
        assert_eq!(parse(":7001").as_deref(), Some("asked:7001"));
        assert_eq!(parse("::1:7001").as_deref(), Some("::1:7001"));
        assert_eq!(parse("[::1]:7001@17001").as_deref(), Some("::1:7001"));
        assert_eq!(parse("host"), None);
        assert_eq!(parse("host:x"), None);
    }
}
