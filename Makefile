# The commands of the house. `make` alone lists them.
# Recipes run in bash, stop at the first failure, and find libtorch and the samples through scripts/env.sh.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

ENV := . scripts/env.sh;
SCRIPTS = .ci/run $(shell find scripts deploy -name '*.sh' 2>/dev/null)

.PHONY: help setup run test build lint fmt bench clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

setup: ## fetch what building and testing need (libtorch, sample model, speech); quick when it is there
	@scripts/setup.sh

run: build ## build for release and start the server on 127.0.0.1:8080
	@scripts/run.sh

test: setup ## build everything and run every test
	@scripts/setup.sh protocol_client
	@echo "test: building the binaries that the black-box tests start"
	@$(ENV) cargo build --workspace --bins
	@$(ENV) cargo build -p headroom-model-host --examples
	@echo "test: running all tests"
	@$(ENV) if cargo nextest --version >/dev/null 2>&1; then \
	  cargo nextest run --workspace; \
	else \
	  cargo test --workspace --lib --bins --tests; \
	fi
	@echo "test: running the examples in the documentation"
	@$(ENV) cargo test --workspace --doc

build: setup ## release binaries of the server and the model host
	@echo "build: headroom and headroom-model-host, for release"
	@$(ENV) cargo build --release -p headroom -p headroom-model-host

lint: setup ## formatting, clippy, documentation, dependencies, shell scripts
	@scripts/setup.sh lint_tools
	@echo "lint: formatting"
	@$(ENV) cargo fmt --all --check
	@echo "lint: clippy"
	@$(ENV) cargo clippy --workspace --all-targets -- -D warnings
	@echo "lint: documentation"
	@$(ENV) RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet
	@$(ENV) if cargo deny --version >/dev/null 2>&1; then \
	  echo "lint: dependencies"; cargo deny --log-level warn check bans licenses sources; \
	else \
	  echo "lint: dependencies not checked, cargo-deny is missing (cargo install cargo-deny --locked)"; \
	fi
	@if command -v shellcheck >/dev/null; then \
	  echo "lint: shell scripts"; shellcheck -x $(SCRIPTS); \
	else \
	  echo "lint: shell scripts not checked, shellcheck is missing (apt-get install shellcheck)"; \
	fi

fmt: ## format all Rust code
	@echo "fmt: formatting all Rust code"
	@cargo fmt --all

bench: build ## criterion benches, then the load scenarios
	@echo "bench: criterion"
	@$(ENV) cargo bench --workspace --benches
	@echo "bench: load scenarios"
	@$(ENV) cargo build --release -p headroom-model-host --examples
	@$(ENV) cargo run --release -p headroom-loadtest -- all
	@echo "bench: pools beside others"
	@scripts/setup.sh bench_peers
	@$(ENV) cargo run --release -p headroom-loadtest --features peers -- postgres
	@$(ENV) cargo run --release -p headroom-loadtest --features peers -- redis

clean: ## remove target/ (the cache and data/ stay)
	@echo "clean: removing target/"
	@cargo clean --quiet
