# Run `make help` for what there is.

.DEFAULT_GOAL := help
.PHONY: help run test test-clients test-languages test-money test-faults test-readme test-oscrash test-cargo-component test-web lint check-release fuzz bench toolchain plugins fixtures

GUEST_TARGET := wasm32-wasip2
PLUGINS := account rust service-a service-b
FIXTURES := chaos

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: plugins ## Build everything and serve on 127.0.0.1:36789
	@test -x target/release/wasaga || echo 'Building the host for the first time: wasmtime alone takes some minutes.'
	@cargo build --release -p wasaga --bin wasaga
	@exec target/release/wasaga

test: plugins fixtures ## Run all tests that need nothing but Rust
	cargo test --release -p wasaga -p wasaga-saga -p wasaga-store -p wasaga-testkit -p wasaga-seed -p wasaga-fuzz --no-fail-fast

test-money: plugins ## The money test for a minute with kills, and a minute with a disk that loses what was not synced
	WASAGA_MONEY_SECONDS=60 cargo test --release -p wasaga --test money -- --test-threads 1 --nocapture

# Some of them mount a file system in memory, so they run in a mount namespace, with which the mounts end.
test-faults: plugins fixtures ## Dead services, stuck plugins, floods, full disks, few files: others go on (needs unshare, cc)
	@namespace="unshare $$(test "$$(id -u)" = 0 || echo --map-root-user) --mount"; \
	$$namespace true || { echo 'NOT RUN: no mount namespace here. Be root with CAP_SYS_ADMIN, or allow user namespaces.' >&2; exit 1; }; \
	$$namespace cargo test --release -p wasaga --test faults -- --include-ignored --test-threads 1

test-clients: plugins ## Run DTM's own clients (Python, Go) against the host; installs what they need
	@cargo build --release -p wasaga --bin wasaga
	@examples/clients/run.sh

test-languages: plugins fixtures ## Build the branch in every language by its README, run a saga on it, and one test on all
	@cargo build --release -p wasaga --bin wasaga
	@examples/languages.sh

test-oscrash: ## Crash the file system under the store and look for what was acknowledged (needs root, loop devices)
	@cargo build --release -p wasaga --example oscrash
	@target/release/examples/oscrash; case $$? in \
	  0) ;; \
	  77) echo 'NOT RUN: no loop devices here; crashes of the operating system are not tested on this machine' ;; \
	  *) exit 1 ;; esac

test-cargo-component: plugins ## Build the plugins and a new one with `cargo component build`, and run the tutorial on them
	@cargo build --release -p wasaga --bin wasaga
	@plugins/cargo-component.sh

test-web: plugins ## Open web pages in Chromium that may not use the host, and some that may; installs it from Debian
	@.ci/chromium.sh
	cargo test --release -p wasaga --test process browser -- --include-ignored

lint: ## Check format and lints
	cargo fmt --all -- --check
	@mkdir -p target && .ci/features.sh
	cargo clippy --release --workspace --all-targets -- -D warnings

check-release: ## Check licences, banned crates and sources; advisories with ADVISORY_DB=<clone of RustSec/advisory-db>
	@.ci/release.sh

test-readme: ## Run the commands of the README
	@examples/readme.sh

# FUZZ_SECONDS is for each target; FUZZ=NAME takes those with this name.
FUZZ_SECONDS := 300
FUZZ := fuzz_
fuzz: ## Run the fuzz targets for longer (options: FUZZ_SECONDS=300 FUZZ=fuzz_rules)
	WASAGA_FUZZ_SECONDS=$(FUZZ_SECONDS) cargo test --release -p wasaga-store -p wasaga --lib -- --test-threads 2 $(FUZZ)

bench: plugins fixtures ## Measure speed (needs wrk; options: BENCH="--quick --only c,d")
	@cargo build --release -p wasaga --bin wasaga --example bench_peer
	@python3 examples/bench/bench.py $(BENCH)

toolchain: ## Make sure that Rust can build for WebAssembly
	@test -d "$$(rustc --print target-libdir --target $(GUEST_TARGET))" || rustup target add $(GUEST_TARGET) || { \
	  echo 'Rust cannot build for $(GUEST_TARGET) here. With rustup and a connection to the Rust release server this' >&2; \
	  echo 'mends it: rustup target add $(GUEST_TARGET). Otherwise install that target of your Rust by other means.' >&2; \
	  exit 1; }

# Builds the packages $(1) and puts their components into the folder $(2); a file that has not changed is left alone.
define components
	@cargo build --quiet --release --target $(GUEST_TARGET) $(1:%=-p %)
	@mkdir -p $(2)
	@for name in $(1); do \
	  built=target/$(GUEST_TARGET)/release/$$(echo $$name | tr - _).wasm; \
	  cmp -s $$built $(2)/$$name.wasm || { cp $$built $(2)/$$name.wasm.new && mv $(2)/$$name.wasm.new $(2)/$$name.wasm && echo "built $(2)/$$name.wasm"; } || exit 1; \
	done
endef

plugins: toolchain ## Build the plugins into target/plugins
	$(call components,$(PLUGINS),target/plugins)

fixtures: toolchain ## Build the test fixtures into target/fixtures
	$(call components,$(FIXTURES),target/fixtures)
