#!/usr/bin/env bash
# Runs a fuzz target for a time, from the seeds in tests/seeds. It works on stable Rust, without a sanitizer.
# It needs cargo-fuzz: `cargo install cargo-fuzz`.
#
#     fuzz/run.sh                       builds all targets
#     fuzz/run.sh quota_string 300      runs one for 300 s
#
# An input that breaks a promise is in fuzz/artifacts. Copy it to tests/seeds/TARGET with the fix.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v cargo-fuzz >/dev/null || { echo "cargo-fuzz is missing: run 'cargo install cargo-fuzz'" >&2; exit 1; }
if [ $# -eq 0 ]; then
    exec cargo fuzz build --sanitizer none
fi
target=$1 seconds=${2:-60}
mkdir -p "fuzz/corpus/$target"
exec cargo fuzz run --sanitizer none "$target" "fuzz/corpus/$target" "tests/seeds/$target" -- \
    -max_total_time="$seconds" -max_len=512 -timeout=10
