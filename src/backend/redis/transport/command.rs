use std::fmt;

/// A command of Redis: its name and its arguments, which are any bytes.
///
/// # Examples
///
/// ```
/// use tower_sluice::backend::redis::transport::Command;
///
/// let mut command = Command::new("SET");
/// command.arg("greeting").arg("hello");
/// let args: Vec<&[u8]> = command.args().collect();
/// assert_eq!(args, [&b"SET"[..], b"greeting", b"hello"]);
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Command {
    /// All arguments, one behind the other.
    bytes: Vec<u8>,
    /// The end of each argument in `bytes`.
    ends: Vec<usize>,
}

impl Command {
    /// Creates a command without arguments.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self::with_capacity(name, 0, 0)
    }

    /// Creates a command with room for `args` arguments of `bytes` bytes in all, the name not counted.
    #[must_use]
    pub fn with_capacity(name: &str, args: usize, bytes: usize) -> Self {
        let mut command = Self {
            bytes: Vec::with_capacity(name.len() + bytes),
            ends: Vec::with_capacity(1 + args),
        };
        command.arg(name);
        command
    }

    /// Appends an argument.
    pub fn arg(&mut self, arg: impl AsRef<[u8]>) -> &mut Self {
        self.bytes.extend_from_slice(arg.as_ref());
        self.ends.push(self.bytes.len());
        self
    }

    /// Appends an argument that consists of two parts.
    pub(in crate::backend::redis) fn joined(&mut self, first: &[u8], second: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(first);
        self.arg(second)
    }

    /// Appends a number, in decimal digits.
    pub(in crate::backend::redis) fn number(&mut self, number: impl itoa::Integer) -> &mut Self {
        self.arg(itoa::Buffer::new().format(number))
    }

    /// Returns the name and the arguments, in this order.
    pub fn args(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |end| {
            let arg = &self.bytes[start..*end];
            start = *end;
            arg
        })
    }

    /// Returns the bytes of the name and of all arguments.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }
}

/// Shows the name and the number of arguments. The arguments can hold secrets.
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.args().next().unwrap_or_default();
        f.debug_struct("Command")
            .field("name", &String::from_utf8_lossy(name))
            .field("args", &(self.ends.len() - 1))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_may_be_empty_or_hold_any_bytes() {
        let mut command = Command::new("EVAL");
        command
            .arg("")
            .arg([0, 255, b'\r', b'\n'])
            .number(-1)
            .joined(b"{a}:", b"b");
        let args: Vec<&[u8]> = command.args().collect();
        assert_eq!(args, [&b"EVAL"[..], b"", b"\0\xff\r\n", b"-1", b"{a}:b"]);
        assert_eq!(command.args().len(), 5);
    }

    #[test]
    fn debug_shows_no_argument() {
        let mut command = Command::new("AUTH");
        command.arg("s3cret");
        assert_eq!(
            format!("{command:?}"),
            "Command { name: \"AUTH\", args: 1 }"
        );
    }
}
