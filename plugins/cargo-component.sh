#!/usr/bin/env bash
# Run with: make test-cargo-component
#
# Builds the tutorial's plugins, and a new one of `wasaga plugin new`, with `cargo component build`. The host must accept
# each of them, and the tutorial's tests must pass. Installs the tool below target/ if it is not on the PATH, which takes
# some minutes.
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.21.1
tools=$PWD/target/tools
out=$PWD/target/cargo-component
wasaga=$PWD/target/release/wasaga
export PATH=$tools/bin:$PATH

if ! cargo component --version >/dev/null 2>&1; then
  if ! pkg-config --exists openssl 2>/dev/null; then
    echo 'cargo-component needs pkg-config and the headers of OpenSSL (Debian: pkg-config, libssl-dev)'
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || { echo 'install them, then run this again' >&2; exit 1; }
    apt-get update -qq && apt-get install -y -qq pkg-config libssl-dev >/dev/null
  fi
  # Unoptimised: it runs twice here, and compiles in half the time.
  cargo install --quiet --debug --locked --root "$tools" --target-dir "$tools/build" "cargo-component@$version"
fi
cargo component --version

# In a copy, since the tool writes generated files beside the sources.
rm -rf "$out" && mkdir -p "$out/plugins" "$out/components"
cp -r wit "$out/wit"
for name in account service-a service-b; do
  cp -r "plugins/$name" "$out/plugins/$name"
  printf '\n[workspace]\n' >>"$out/plugins/$name/Cargo.toml"
  cp Cargo.lock "$out/plugins/$name/Cargo.lock"
  (cd "$out/plugins/$name" && CARGO_TARGET_DIR=$out/target cargo component build --release)
  cp "$out"/target/wasm32-wasip1/release/"${name//-/_}.wasm" "$out/components/$name.wasm"
done

# A name that WIT does not allow, but Wasaga does.
name=my_plugin
(cd "$out" && "$wasaga" plugin new "$name" --lang rust >/dev/null && cd "$name" && cargo component build --release)
cp "$out/$name/target/wasm32-wasip1/release/$name.wasm" "$out/$name.wasm"

for file in "$out"/components/*.wasm "$out/$name.wasm"; do
  "$wasaga" plugin check "$file" || { echo "cargo-component: $file is not a plugin" >&2; exit 1; }
done

WASAGA_TEST_PLUGINS=$out/components cargo test --release -p wasaga --test process tutorial
