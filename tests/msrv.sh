#!/usr/bin/env bash
# Computes the oldest Rust version that the library's dependencies accept, from Cargo.lock.
# It prints the floor and the crates that set it, and fails if `rust-version` in Cargo.toml is lower.
#
#     tests/msrv.sh
#
# Development dependencies do not count: they are no part of what a user compiles. Clippy's `incompatible_msrv`
# checks the calls of the standard library, and CI compiles the library with this version.
set -euo pipefail
cd "$(dirname "$0")/.."

floors=$(cargo metadata --locked --all-features --format-version 1 | jq -r '
    (.packages | map({(.id): .}) | add) as $packages
    | (.resolve.nodes | map({(.id): [.deps[] | select(any(.dep_kinds[]; .kind == null or .kind == "build")) | .pkg]})
        | add) as $needs
    | {seen: {}, next: [.resolve.root]}
    | until(.next == [];
        .next[0] as $id
        | if .seen[$id] then .next |= .[1:] else .seen[$id] = true | .next = .next[1:] + $needs[$id] end)
    | .seen | keys[] | $packages[.]
    | select(.source != null and .rust_version != null)
    | "\(.rust_version) \(.name) \(.version)"' | sort -k1,1Vr)
floor=$(head -n 1 <<<"$floors" | cut -d' ' -f1)
ours=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

echo "the dependencies need Rust $floor:"
grep "^${floor//./\\.} " <<<"$floors" | sed 's/^[^ ]* /    /'
[ "$(printf '%s\n' "$floor" "$ours" | sort -V | head -n 1)" = "$floor" ] || {
    echo "rust-version in Cargo.toml is $ours, which is lower: raise it, or use an older version of these crates" >&2
    exit 1
}
echo "rust-version in Cargo.toml is $ours"
