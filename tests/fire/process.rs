//! A load process: this program again.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

use crate::records::Check;

pub(crate) const CHILD: &str = "--load-process";

/// This program again. A drop before its report kills it.
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) out: BufReader<std::process::ChildStdout>,
}

impl Process {
    pub(crate) fn start(
        url: &str,
        scenario: &str,
        slower: u64,
        number: usize,
    ) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|why| why.to_string())?;
        let mut child = Command::new(program)
            .args([
                CHILD,
                url,
                scenario,
                &slower.to_string(),
                &number.to_string(),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|why| why.to_string())?;
        let out = BufReader::new(child.stdout.take().expect("piped"));
        Ok(Self { child, out })
    }

    pub(crate) fn wait_until_ready(&mut self) -> Result<(), String> {
        let mut line = String::new();
        match self.out.read_line(&mut line) {
            Ok(_) if line == "ready\n" => Ok(()),
            _ => Err(format!("a process did not get ready, and said {line:?}")),
        }
    }

    pub(crate) fn order(&mut self, order: &str) -> Result<(), String> {
        let input = self.child.stdin.as_mut().expect("piped");
        let done = input.write_all(order.as_bytes());
        done.map_err(|why| format!("a process does not listen: {why}"))
    }

    pub(crate) fn report(mut self) -> Result<Vec<Check>, String> {
        let mut bytes = Vec::new();
        let read = self.out.read_to_end(&mut bytes);
        let status = self.child.wait();
        match (read, status) {
            (Ok(_), Ok(status)) if status.success() => Ok(Check::read_all(&bytes)),
            (read, status) => Err(format!("a process has failed: {status:?}, {read:?}")),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
