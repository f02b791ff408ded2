#!/usr/bin/env bash
# Runs the model in a separate target folder, because its cfg would rebuild all other crates.
set -euo pipefail
cd "$(dirname "$0")/../.."
export CARGO_TARGET_DIR="$PWD/target/model" RUSTFLAGS='--cfg sluice_model'
exec cargo test --locked --quiet --manifest-path tests/model/Cargo.toml "$@"
