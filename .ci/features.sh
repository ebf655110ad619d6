#!/usr/bin/env bash
# Tests and benchmarks must use every library as the program does: one with other features would be compiled a second
# time, and all that depends on it with it. Fails if there is one, and says what to add to host/Cargo.toml.
set -euo pipefail
cd "$(dirname "$0")/.."

# The libraries of the workspace's packages with these kinds of dependencies, one `name version features` a line.
libraries() {
  cargo tree -p wasaga -p wasaga-saga -p wasaga-store -e "$1" --prefix none --format '{p} {f}' |
    sed -E 's/ \(\*\)//; s/ \([^)]*\)//' | sort -u
}

libraries normal,build >target/features-program
libraries normal,build,dev >target/features-tests
others=$(comm -23 target/features-program target/features-tests)
if [ -n "$others" ]; then
  printf '%s\n' "The tests need other features of these libraries than the program:" "$others" \
    "Name what they need in [dependencies] of host/Cargo.toml, where it says that it is for features alone." >&2
  exit 1
fi
