#!/usr/bin/env bash
# Run with: make check-release
#
# Compares the crates that the program consists of with deny.toml: their licences, crates that must not be there, and where
# they come from. Installs the tool below target/ if that version of it is not there, which takes some minutes.
#
# Known vulnerabilities are looked up only if ADVISORY_DB names a clone of https://github.com/RustSec/advisory-db. That
# database is not in any package registry, so that a machine without a way to GitHub has to bring it along.
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.20.2
tools=$PWD/target/tools
export PATH=$tools/bin:$PATH

if [ "$(cargo deny --version 2>/dev/null)" != "cargo-deny $version" ]; then
  # Unoptimised: it runs once, and compiles in half the time.
  cargo install --quiet --debug --locked --root "$tools" --target-dir "$tools/build" "cargo-deny@$version"
fi

cargo deny --locked check licenses bans sources

if [ -n "${ADVISORY_DB:-}" ]; then
  database=$(cd "$ADVISORY_DB" && pwd)
  echo "advisories: the newest entry of $database is of $(git -C "$database" log -1 --format=%cs)"
  # The tool fetches the database from its usual address, in whose place git takes the copy.
  export ADVISORY_DBS=$PWD/target/advisory-dbs
  export GIT_CONFIG_COUNT=1 GIT_CONFIG_VALUE_0=https://github.com/RustSec/advisory-db GIT_CONFIG_KEY_0="url.file://$database.insteadOf"
  mkdir -p "$ADVISORY_DBS"
  cargo deny --locked check advisories
else
  echo 'advisories: NOT CHECKED. Set ADVISORY_DB to a clone of https://github.com/RustSec/advisory-db' >&2
fi
