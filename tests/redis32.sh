#!/usr/bin/env bash
# Unpacks Debian's 32-bit redis-server with its libraries into FOLDER. The program FOLDER/redis-server runs it.
# It installs nothing. It needs apt-get and dpkg-deb, and an x86-64 machine.
#
#     tests/redis32.sh FOLDER
set -euo pipefail
folder=$(mkdir -p "$1" && cd "$1" && pwd)
program=$folder/redis-server
die() { printf 'tests/redis32.sh: %s\n' "$*" >&2; exit 1; }

works() { "$program" --version 2>/dev/null | grep -q 'bits=32'; }

works && exit 0
[ "$(uname -m)" = x86_64 ] || die "a 32-bit build for x86 does not run on $(uname -m)"
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || die "apt-get and dpkg-deb are missing"

# Separate lists, cache and status: the system's files stay unchanged.
mkdir -p "$folder"/state/lists/partial "$folder"/cache/archives/partial "$folder"/root
: >"$folder/status"
apt=(apt-get -qq -o APT::Architecture=i386 -o APT::Architectures::=i386 -o APT::Sandbox::User= -o Dir::State="$folder/state"
    -o Dir::State::status="$folder/status" -o Dir::Cache="$folder/cache" --no-install-recommends)
# Other sources may fail for this architecture. Only Debian's own is needed.
"${apt[@]}" update >"$folder/log" 2>&1 || true
"${apt[@]}" --download-only -y install redis-server >>"$folder/log" 2>&1 || die "no packages, see $folder/log"
for package in "$folder"/cache/archives/{lib,redis-}*_i386.deb; do
    dpkg-deb -x "$package" "$folder/root"
done
rm -r "$folder/cache" "$folder/state"
cat >"$program" <<END
#!/bin/sh
lib="$folder/root/lib/i386-linux-gnu:$folder/root/usr/lib/i386-linux-gnu"
exec "$folder/root/lib/i386-linux-gnu/ld-linux.so.2" --library-path "\$lib" --argv0 redis-server "$folder/root/usr/bin/redis-server" "\$@"
END
chmod +x "$program"
works || die "the program does not run on this machine: $("$program" --version 2>&1)"
