//! Writes the `google.rpc.Status` of a rejection as a protocol buffer. Three messages do not justify a dependency and a
//! build step.
//!
//! ```text
//! Status       { int32 code = 1; string message = 2; repeated Any details = 3; }
//! Any          { string type_url = 1; bytes value = 2; }
//! RetryInfo    { Duration retry_delay = 1; }           Duration { int64 seconds = 1; int32 nanos = 2; }
//! QuotaFailure { repeated Violation violations = 1; }  Violation { string subject = 1; string description = 2; }
//! ```

use std::time::Duration;

pub(super) struct StatusMessage(Vec<u8>);

impl StatusMessage {
    pub(super) fn new(code: u8, message: &str) -> Self {
        let mut out = Vec::with_capacity(256);
        integer(1, code.into(), &mut out);
        text(2, message.as_bytes(), &mut out);
        Self(out)
    }

    /// Adds the wait.
    pub(super) fn retry_info(&mut self, delay: Duration) {
        let (mut duration, mut info) = (Vec::new(), Vec::new());
        integer(1, delay.as_secs(), &mut duration);
        integer(2, delay.subsec_nanos().into(), &mut duration);
        text(1, &duration, &mut info);
        self.detail(b"type.googleapis.com/google.rpc.RetryInfo", &info);
    }

    /// Adds the names of the exceeded limits.
    pub(super) fn quota_failure<'a>(
        &mut self,
        subjects: impl Iterator<Item = &'a str>,
        description: &str,
    ) {
        let mut failure = Vec::new();
        for subject in subjects {
            let mut violation = Vec::new();
            text(1, subject.as_bytes(), &mut violation);
            text(2, description.as_bytes(), &mut violation);
            text(1, &violation, &mut failure);
        }
        self.detail(b"type.googleapis.com/google.rpc.QuotaFailure", &failure);
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn detail(&mut self, kind: &[u8], value: &[u8]) {
        let mut any = Vec::with_capacity(kind.len() + value.len() + 8);
        text(1, kind, &mut any);
        text(2, value, &mut any);
        text(3, &any, &mut self.0);
    }
}

/// Writes a field of wire type 0. The value 0 is the default and left out.
fn integer(field: u8, value: u64, out: &mut Vec<u8>) {
    if value > 0 {
        out.push(field << 3);
        varint(value, out);
    }
}

/// Writes a field of wire type 2: a string, bytes, or a message.
fn text(field: u8, value: &[u8], out: &mut Vec<u8>) {
    out.push(field << 3 | 2);
    varint(value.len() as u64, out);
    out.extend_from_slice(value);
}

/// Writes seven bits in each byte, the lowest first. All bytes but the last have the eighth bit set.
fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value > 0x7f {
        out.push(0x80 | value.to_le_bytes()[0]);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}
