# Commands for working on Headroom. `make` alone lists them.
# Recipes run in bash and stop at the first failure. scripts/env.sh sets the paths of libtorch and the samples.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

ENV := . scripts/env.sh;
# Commands get no input and a time limit. They run in the foreground, so that Ctrl-C reaches them.
BOUND := timeout --foreground -k 60 120m
CARGO := </dev/null $(BOUND) cargo
# A measurement, whose report goes to docs/figures.
FIGURES := scripts/figures.sh
SCRIPTS = .ci/run $(shell find scripts deploy -name '*.sh' 2>/dev/null)

.PHONY: help setup run test kill-runs fuzz-api fuzz build lint fmt openapi bench soak screenshots clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

setup: ## fetch libtorch, the sample model and speech recordings, unless they are in the cache
	@scripts/setup.sh

run: build ## build for release and start the server on 127.0.0.1:8080
	@scripts/run.sh

test: test-programs ## build everything and run all tests
	@echo "test: running all tests"
	@$(ENV) $(CARGO) nextest run --workspace
	@echo "test: running the examples in the documentation"
	@$(ENV) $(CARGO) test --workspace --doc

test-programs: programs
	@scripts/setup.sh nextest pgbouncer torch_python protocol_client openapi_client prometheus browser page_checks upload_clients chain_clients object_store anvil cast shell_checks

# All in one command, also the tests: parts of the workspace that are built alone need other features of the
# dependencies, and then these are built again.
programs: setup
	@echo "programs: building the debug programs and the tests"
	@$(ENV) $(CARGO) build --workspace --bins --examples --tests

kill-runs: test-programs ## kill test runs at random moments and check that nothing is left
	@$(ENV) </dev/null $(BOUND) scripts/tests/kill_runs.py $(ROUNDS) $(SEED)

TIME = 600
fuzz-api: programs ## send generated requests to a server for TIME=600 seconds, and compare the answers with docs/openapi.json
	@scripts/setup.sh schemathesis
	@echo "fuzz-api: sending requests for $(TIME) s"
	@$(ENV) </dev/null $(BOUND) scripts/tests/fuzz_api.py "$${CARGO_TARGET_DIR:-target}/debug/headroom" $(TIME) $(OPTIONS)

fuzz: setup ## give each target of src/fuzz.rs generated inputs for TIME=600 seconds
	@$(ENV) </dev/null $(BOUND) scripts/tests/fuzz.sh $(TIME) $(TARGETS)

# What `headroom --version` says of the build. The other targets do without, and need not build again after each commit.
# Once, since the reports of `bench` change the tree.
ifndef HEADROOM_COMMIT
HEADROOM_COMMIT := $(shell git describe --always --dirty --abbrev=12 --exclude '*' 2>/dev/null)
endif
build bench soak: export HEADROOM_COMMIT := $(HEADROOM_COMMIT)

build: setup ## build the server and the model host for release
	@echo "build: headroom and headroom-model-host, for release"
	@$(ENV) $(CARGO) build --release -p headroom -p headroom-model-host

lint: setup ## check formatting, clippy, documentation, dependencies, shell scripts
	@scripts/setup.sh lint_tools
	@echo "lint: formatting"
	@$(ENV) $(CARGO) fmt --all --check
	@echo "lint: clippy"
	@$(ENV) $(CARGO) clippy --workspace --all-targets -- -D warnings
	@echo "lint: documentation"
	@$(ENV) RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --quiet
	@$(ENV) if cargo deny --version </dev/null >/dev/null 2>&1; then \
	  echo "lint: dependencies"; $(CARGO) deny --log-level warn check bans licenses sources; \
	else \
	  echo "lint: dependencies not checked: cargo-deny is missing (cargo install cargo-deny --locked)"; \
	fi
	@if command -v shellcheck >/dev/null; then \
	  echo "lint: shell scripts"; shellcheck -x $(SCRIPTS); \
	else \
	  echo "lint: shell scripts not checked: shellcheck is missing (apt-get install shellcheck)"; \
	fi

fmt: ## format all Rust code
	@echo "fmt: formatting all Rust code"
	@$(CARGO) fmt --all

openapi: ## write docs/openapi.json, after a change of a route or its types
	@echo "openapi: writing docs/openapi.json"
	@$(ENV) $(CARGO) run --quiet -p headroom -- openapi >docs/openapi.json.new
	@mv docs/openapi.json.new docs/openapi.json

bench: build ## run the criterion benches and the load scenarios; keep the reports in docs/figures
	@echo "bench: criterion"
	@$(FIGURES) criterion
	@echo "bench: load scenarios"
	@$(ENV) $(CARGO) build --release -p headroom-model-host --examples
	@$(FIGURES) all
	@$(FIGURES) restarts
	@$(FIGURES) policy
	@echo "bench: pools compared with other pools"
	@scripts/setup.sh bench_peers
	@FEATURES=peers $(FIGURES) postgres --seconds 5 --out docs/figures
	@FEATURES=peers $(FIGURES) postgres-slow --seconds 5 --out docs/figures
	@FEATURES=peers $(FIGURES) redis --seconds 9 --out docs/figures
	@echo "bench: the HTTP edge compared with other servers"
	@FEATURES=peers $(FIGURES) edge --seconds 15
	@echo "bench: uploads compared with other servers and with the disk"
	@FEATURES=peers $(FIGURES) uploads --seconds 2
	@echo "bench: the gateway to chains compared with other gateways"
	@scripts/setup.sh anvil
	@FEATURES=peers $(FIGURES) chains --seconds 5

MINUTES = 30
soak: build ## put load on a server for MINUTES=30 minutes; fail if something grows without end, or a request fails
	@$(ENV) $(CARGO) build --release -p headroom-loadtest
	@echo "soak: $(MINUTES) minutes of load; the results go to target/soak"
	@$(ENV) </dev/null timeout --foreground -k 60 $$(($(MINUTES) + 15))m \
	  cargo run --release -p headroom-loadtest -- soak --minutes $(MINUTES) --out target/soak $(OPTIONS)

screenshots: test-programs ## take the pictures of the page again: docs/page.png, and others in target/screenshots
	@mkdir -p target/screenshots
	@$(ENV) HEADROOM_SCREENSHOTS=$(CURDIR)/target/screenshots $(CARGO) nextest run --run-ignored only -E 'binary(dashboard)'
	@scripts/compress_png.py target/screenshots/light.png docs/page.png

clean: ## remove target/ and keep the cache and data/
	@echo "clean: removing target/"
	@$(CARGO) clean --quiet
