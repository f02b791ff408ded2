//! Questions to a sentinel and to a server, and their replies.

use std::fmt;

use super::super::transport::{Command, Transport, TransportError, TransportErrorKind, Value};

/// The address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The primary as one sentinel sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PrimaryView {
    pub(super) address: Address,
    /// The number of the failover that made it the primary.
    pub(super) epoch: u64,
}

/// Asks a sentinel for the primary of this name. Returns `None` if it knows none.
pub(super) async fn primary(
    sentinel: &dyn Transport,
    name: &str,
) -> Result<Option<PrimaryView>, TransportError> {
    let questions = ["GET-MASTER-ADDR-BY-NAME", "MASTER"].map(|word| {
        let mut command = Command::new("SENTINEL");
        command.arg(word).arg(name);
        command
    });
    let replies = sentinel.send_all(&questions).await?;
    let [address, state] = &*replies else {
        return Err(unexpected());
    };
    if let Value::Error(error) = address {
        return Err(error.clone().into());
    }
    let Value::Array(parts) = address else {
        return Ok(None);
    };
    let [host, port] = &**parts else {
        return Err(unexpected());
    };
    let address = read_address(text(host), text(port)).ok_or_else(unexpected)?;
    // Without the right to read the state, all views are equally new.
    let epoch = field(state, "config-epoch").map_or(0, |epoch| epoch.parse().unwrap_or(0));
    Ok(Some(PrimaryView { address, epoch }))
}

/// Returns the role of a server: `master`, `slave` or `sentinel`. Returns `None` if the user may not read it.
pub(super) async fn role(server: &dyn Transport) -> Result<Option<String>, TransportError> {
    match server.send(&Command::new("ROLE")).await?.into_result() {
        Ok(Value::Array(parts)) => Ok(parts.first().map(|role| text(role).to_owned())),
        Ok(_) => Err(unexpected()),
        Err(error) if matches!(error.code(), Some("NOPERM" | "ERR")) => Ok(None),
        Err(error) => Err(error),
    }
}

/// An event of a sentinel.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The primary has changed, or is about to.
    Changed,
    /// A failover has selected this replica. It becomes the primary within a second.
    Selected(Address),
}

/// The channels with events about a failover.
pub(super) const CHANNELS: [&str; 3] = ["+switch-master", "+selected-slave", "+promoted-slave"];

impl Event {
    /// Reads the message of a channel. Returns `None` if it concerns another primary than `name`.
    ///
    /// `+switch-master`: name, old host and port, new host and port. The others: `slave`, its name, host and port, `@`,
    /// and the name of the primary.
    pub(super) fn read(channel: &str, message: &str, name: &str) -> Option<Self> {
        let words: Vec<&str> = message.split(' ').collect();
        match (channel, &*words) {
            ("+switch-master", [of, ..]) => (*of == name).then_some(Self::Changed),
            ("+promoted-slave", [_, _, _, _, _, of, ..]) => (*of == name).then_some(Self::Changed),
            ("+selected-slave", [_, _, host, port, _, of, ..]) if *of == name => {
                read_address(host, port).map(Self::Selected)
            }
            _ => None,
        }
    }
}

fn read_address(host: &str, port: &str) -> Option<Address> {
    let host = host.to_owned();
    let port = port.parse().ok()?;
    Some(Address { host, port })
}

/// Returns a field of a flat list of names and values.
fn field<'a>(list: &'a Value, name: &str) -> Option<&'a str> {
    let Value::Array(parts) = list else {
        return None;
    };
    let found = parts.chunks_exact(2).find(|pair| text(&pair[0]) == name);
    found.map(|pair| text(&pair[1]))
}

fn text(value: &Value) -> &str {
    match value {
        Value::Bytes(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
        _ => "",
    }
}

fn unexpected() -> TransportError {
    TransportError::new(
        TransportErrorKind::Protocol,
        "unexpected reply of a sentinel",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_the_own_primary_are_read() {
        let read = |channel, message| Event::read(channel, message, "main");
        let switch = "main 10.0.0.1 6379 10.0.0.2 6380";
        assert_eq!(read("+switch-master", switch), Some(Event::Changed));
        let slave = "slave 10.0.0.2:6380 10.0.0.2 6380 @ main 10.0.0.1 6379";
        assert_eq!(read("+promoted-slave", slave), Some(Event::Changed));
        let address = Address {
            host: "10.0.0.2".to_owned(),
            port: 6_380,
        };
        assert_eq!(
            read("+selected-slave", slave),
            Some(Event::Selected(address))
        );
        for (channel, message) in [
            ("+switch-master", "other 10.0.0.1 6379 10.0.0.2 6380"),
            (
                "+selected-slave",
                "slave 10.0.0.2:6380 10.0.0.2 6380 @ other 10.0.0.1 6379",
            ),
            (
                "+selected-slave",
                "slave 10.0.0.2:6380 10.0.0.2 port @ main 10.0.0.1 6379",
            ),
            ("+selected-slave", "slave"),
            ("+switch-master", ""),
            ("+sdown", switch),
        ] {
            assert_eq!(read(channel, message), None, "{channel} {message}");
        }
    }
}
