//! The other examples, unchanged.

use std::process::{Output, Stdio};

use tokio::process::Command;
use tokio::time::timeout;

use crate::playground::{TIMEOUT, example};

pub(crate) async fn run(name: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(example(name));
    let command = command.args(arguments).stdin(Stdio::null());
    let output = timeout(TIMEOUT, command.kill_on_drop(true).output()).await;
    output.expect("in time").expect("the server runs")
}

#[tokio::test]
async fn examples_that_assert_what_they_show_succeed() {
    let mut names = vec![
        "awaited_key",
        "billing",
        "browsers",
        "http_and_grpc",
        "reqwest",
        "tenants",
        "variable_cost",
        "websocket",
        "without_tower",
    ];
    names.extend(cfg!(feature = "blocking").then_some("blocking"));
    for name in names {
        let output = run(name, &[]).await;
        assert!(output.status.success(), "{name}: {output:?}");
        assert!(!output.stdout.is_empty(), "{name} shows something");
    }
}
