# Everything that is done around the build. `make` alone lists it.

SHELL := /bin/bash

# Where cargo builds: outside the checkout, so that several checkouts share the native build.
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/quorate/target
# Profile of the test runner; .ci/run sets it to ci.
NEXTEST_PROFILE ?= default
# rustup's directory is not on the path of every shell.
export PATH := $(PATH):$(HOME)/.cargo/bin

SCRIPTS := $(wildcard scripts/*.sh) $(wildcard packaging/*.sh) $(wildcard packaging/debian/*) \
	$(wildcard tests/*/*.sh) .ci/run

.PHONY: help setup native build release demo demo-stop clean-demo test verify fix bench model sim teeth fuzz install deb

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## install what is missing: Debian packages, cargo-nextest
	scripts/setup.sh

native: ## build RocksDB and the other dependencies; slow once, then cached
	scripts/native.sh

build: ## build hanode and hactl for development
	cargo build --locked --bins

release: native ## build hanode and hactl, optimised
	scripts/release.sh cargo build --locked --release --bins

demo: setup native build ## start, or go on with, a cluster of three nodes on this machine
	scripts/demo.sh

demo-stop: ## stop the demo, keep its data
	scripts/demo-stop.sh

clean-demo: ## stop the demo, remove its data
	scripts/clean-demo.sh

test: setup native verify ## everything that a change has to pass: what is missing is installed, lints, all tests
	cargo nextest run --locked --profile $(NEXTEST_PROFILE)
	cargo nextest run --locked --profile $(NEXTEST_PROFILE) -p quorate-world -p quorate-sim
	cargo test --locked --doc
	cargo run --locked -p quorate-model -- quick
	cargo run --locked -p quorate-sim -- regressions crates/sim/regressions
	for profile in all data control crashes operator jobs members; do \
		cargo run --locked -p quorate-sim -- run --seeds 20 --verify --profile $$profile \
			--out $(CARGO_TARGET_DIR)/sim-plans || exit 1; done
	cargo run --locked -p quorate-sim -- run --seeds 10 --verify --profile failsafe \
		--out $(CARGO_TARGET_DIR)/sim-plans
	cargo run --locked -p quorate-world --bin quorate-alone -- run --seeds 200 --jobs 2
	cargo test --locked -p quorate-fuzz

verify: ## check format, lints, documentation and scripts; never writes to the checkout
	cargo fmt --all --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked -p quorate-model -- -D warnings
	cargo clippy --locked -p quorate-world -p quorate-sim --all-targets -- -D warnings
	cargo clippy --locked -p quorate-fuzz --lib --bins --test replay --features engine -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps
	@if command -v shellcheck >/dev/null; then \
		echo shellcheck $(SCRIPTS); shellcheck -x $(SCRIPTS); \
	else echo "shellcheck is not installed: scripts are not checked"; fi

fix: ## mend format and what clippy can mend
	cargo clippy --locked --all-targets --fix --allow-dirty --allow-staged
	cargo fmt --all

model: ## explore the protocol exhaustively within its larger bounds: about half an hour, 2 GB
	cargo run --locked -p quorate-model -- full

sim: ## run production code in a simulated world: SEEDS=n seeds from FROM=n on, or one SEED=n again
	cargo build --locked --profile sim -p quorate-sim
ifdef SEED
	$(CARGO_TARGET_DIR)/sim/quorate-sim replay --seed $(SEED) --profile $(or $(PROFILE),all)
else
	$(CARGO_TARGET_DIR)/sim/quorate-sim regressions crates/sim/regressions
	$(CARGO_TARGET_DIR)/sim/quorate-sim run --seeds $(or $(SEEDS),100) --from $(or $(FROM),1) \
		--jobs $(or $(JOBS),2) --profile $(or $(PROFILE),all) $(if $(VERIFY),--verify) \
		--out $(CARGO_TARGET_DIR)/sim-plans
endif

teeth: ## leave out one rule of the protocol after the other, and see how soon a simulation finds it
	cargo build --locked --profile sim -p quorate-sim
	$(CARGO_TARGET_DIR)/sim/quorate-sim teeth --seeds-max $(or $(SEEDS),300) --jobs $(or $(JOBS),2) \
		$(if $(ONLY),--only $(ONLY))

fuzz: setup ## feed production code with inputs that nobody would write: TIME=60 seconds a target
	scripts/fuzz.sh $(or $(TIME),60) $(TARGETS)

bench: native ## run the benchmarks, optimised
	scripts/release.sh cargo bench --locked

install: release ## install programs, units and an example configuration; DESTDIR is respected
	packaging/install.sh "$(CARGO_TARGET_DIR)/release"

deb: setup release ## build the Debian package into dist/
	scripts/deb.sh release dist
