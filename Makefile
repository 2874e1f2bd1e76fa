# Everything a newcomer needs: Python 3.11 or newer, make, and for the interop tests Node.js.
# `make demo` first, `make test` next. A second run needs no network.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

VENV ?= .venv
BIN := $(VENV)/bin
# Another interpreter: make PYTHON=/path/to/python demo (after make clean).
PYTHON ?=
CANDIDATES := $(or $(PYTHON),python3.13 python3.12 python3.11 python3)
# Some python commands are stubs that only print an error, and some can't make an environment.
USABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# The first pip that installs dependency groups; the one that Python brings may be older.
PIP_WITH_GROUPS := 'pip>=25.1'
NODE_PACKAGES := tests/interop/node_modules/.installed
# For one test or other options: make unit PYTEST_ARGS="-k idle -x"
PYTEST_ARGS ?=
PYTEST := $(BIN)/python -m pytest
# Whole files at a time: what a file's tests share is made once. Most tests wait, so that three fit two
# cores. WORKERS=0 runs one after the other.
WORKERS ?= 3

##@ Use
.PHONY: demo
demo: $(VENV)/demo.installed ## make a course to listen to, in under a minute, with no network and no key
	$(BIN)/python -m examples.convolab.demo

.PHONY: bench
bench: $(VENV)/dev.installed node-packages ## all benchmarks, in ten minutes, into docs/benchmarks.md
	$(BIN)/python -m examples.benchmarks.suite

.PHONY: docs
docs: $(VENV)/docs.installed ## the documentation as a site, in site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# What a TypeScript service has of examples/convolab; a test compares both files with its handlers.
EXAMPLE_SCHEMA := $(BIN)/convolab-worker schema --app examples.convolab.app:handlers
.PHONY: schema
schema: $(VENV)/dev.installed ## write the example's schema and its types for TypeScript again
	$(EXAMPLE_SCHEMA) --queue course-generation >examples/convolab/jobs.schema.json
	$(EXAMPLE_SCHEMA) --queue course-generation --typescript >examples/convolab/jobs.d.ts

##@ Check
.PHONY: test
test: lint types layers $(VENV)/dev.installed node-packages ## everything that a change must pass
	$(PYTEST) -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

.PHONY: lint
lint: $(VENV)/dev.installed ## ruff, hadolint, yamllint, the Compose schema
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/hadolint Dockerfile deploy/examples.Dockerfile
	$(BIN)/yamllint --strict --config-file deploy/.yamllint deploy
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml
	@if command -v promtool >/dev/null; then \
	  promtool check rules deploy/alerts.yaml && promtool test rules deploy/alerts-test.yaml; \
	else echo "no promtool on this machine: the alert rules are not checked (Debian: prometheus)"; fi

.PHONY: prose
prose: tests/prose/node_modules/.package-lock.json ## the English of every page: grammar, spelling, long sentences
	node tests/prose/prose.mjs $$(git ls-files '*.md')

.PHONY: types
types: $(VENV)/dev.installed ## mypy, strict; and what editors see of the public API
	$(BIN)/mypy
	$(BIN)/basedpyright

.PHONY: layers
layers: $(VENV)/dev.installed ## imports point down only
	$(BIN)/lint-imports

.PHONY: unit
unit: $(VENV)/dev.installed ## the tests without sockets
	$(PYTEST) tests/unit $(PYTEST_ARGS)

.PHONY: integration
integration: $(VENV)/dev.installed ## the tests on a real server
	$(PYTEST) tests/integration $(PYTEST_ARGS)

.PHONY: interop
interop: $(VENV)/dev.installed node-packages ## the tests with Node's bullmq, 6.x and 5.x
	$(PYTEST) tests/interop $(PYTEST_ARGS)

.PHONY: compatibility
compatibility: $(VENV)/dev.installed node-packages ## write the compatibility table into docs/bullmq.md
	$(BIN)/python -m tests.interop.compatibility

.PHONY: faults
faults: $(VENV)/dev.installed node-packages ## the fault tests, those that take minutes too
	$(PYTEST) tests/faults -m "long or not long" $(PYTEST_ARGS)

# make torture JOBS=100000 SEED=42; without a seed, a random one, which is printed.
# HELD of the four workers work only while requests are held.
JOBS ?= 5000
HELD ?= 2
SEED ?=
.PHONY: torture
torture: $(VENV)/dev.installed node-packages ## jobs, workers and a gremlin, and an account of every job
	$(BIN)/python -m tests.faults.torture --jobs $(JOBS) --held $(HELD) $(if $(SEED),--seed $(SEED))

# make model MINUTES=60 SEED=42; a plan that fails is printed, as short as it could be made.
MINUTES ?= 60
.PHONY: model
model: $(VENV)/dev.installed ## random plans for a worker, and what must hold after each
	$(BIN)/python -m tests.model --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

# make rig DAY=600 SEED=42; a day in so many seconds, by three contenders at the same time.
DAY ?= 360
.PHONY: rig
rig: $(VENV)/dev.installed node-packages ## a day on a platform like Cloud Run, and what it costs
	$(BIN)/python -m tests.faults.rig --seconds $(DAY) $(if $(SEED),--seed $(SEED))

.PHONY: rig-places
rig-places: $(VENV)/dev.installed node-packages ## a day on stand-ins for six platforms, into docs/platforms.md
	$(BIN)/python -m tests.faults.rig --places --seconds $(DAY) $(if $(SEED),--seed $(SEED))

.PHONY: fuzz-door
fuzz-door: $(VENV)/dev.installed ## 200,000 mutated requests at the wake server's socket
	$(BIN)/python -m tests.faults.door.fuzz $(if $(SEED),--seed $(SEED))

# make fuzz-options CASES=2000 SEED=42; without a seed, a random one, which is printed.
CASES ?= 2000
.PHONY: fuzz-options
fuzz-options: $(VENV)/dev.installed node-packages ## random jobs, run by Node's worker and by ours
	$(BIN)/python -m tests.interop.options_fuzz --cases $(CASES) $(if $(SEED),--seed $(SEED))

# make soak-door SOAK=600: seconds.
SOAK ?= 600
.PHONY: soak-door
soak-door: $(VENV)/dev.installed ## ten minutes of jobs in held requests while the server is attacked
	$(BIN)/python -m tests.faults.door.soak --seconds $(SOAK)

.PHONY: memory
memory: $(VENV)/dev.installed ## a worker's memory after a million jobs
	$(BIN)/python -m tests.faults.memory

# The core of the suite on other servers; make test has its short form, on all of them.
OLD_REDIS = $(shell $(BIN)/python -c 'from tests.support.kinds import old_redis; print(old_redis())')
MATRIX := tests/integration/test_worker.py tests/integration/test_fairness.py \
  tests/integration/test_idle.py tests/integration/bullmq/test_conformance_behaviour.py \
  tests/faults/test_redis_away.py tests/faults/test_worker_dies.py tests/faults/test_shutdown.py
.PHONY: matrix
matrix: $(VENV)/dev.installed node-packages ## the core of the tests on Redis 7 and 6.2, TLS, a cluster
	$(PYTEST) tests/integration/test_servers.py tests/integration/test_cluster.py $(PYTEST_ARGS)
	TEST_SERVER_PROGRAM=redis-server $(PYTEST) $(MATRIX) $(PYTEST_ARGS)
	TEST_SERVER_PROGRAM=$(OLD_REDIS) $(PYTEST) $(MATRIX) $(PYTEST_ARGS)

.PHONY: installing
installing: $(VENV)/dev.installed ## docs/installing.md, each way in an environment of its own
	rm -rf dist && $(BIN)/python -m build --outdir dist . >/dev/null
	$(BIN)/python .ci/installing.py dist

.PHONY: coverage
coverage: $(VENV)/dev.installed ## the unit and integration tests, and what they leave out
	$(PYTEST) tests/unit tests/integration --cov $(PYTEST_ARGS)

.PHONY: format
format: $(VENV)/dev.installed ## rewrite the sources as ruff wants them
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

##@ Set up
.PHONY: setup
setup: $(VENV)/dev.installed node-packages ## what all other targets need

.PHONY: clean
clean: ## remove what was installed and built
	rm -rf $(VENV) tests/interop/node_modules build dist site .coverage
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help
help: ## this list
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(BIN)/python:
	@for candidate in $(CANDIDATES); do \
	  if $$candidate -c '$(USABLE)' >/dev/null 2>&1; then \
	    echo "making $(VENV) with $$($$candidate --version)"; \
	    exec $$candidate -m venv --clear $(VENV); \
	  fi; \
	done; \
	echo "None of these is Python 3.11 or newer that can make environments: $(CANDIDATES)." >&2; \
	echo "Install one (on Debian and Ubuntu python3-venv too), or name one: make PYTHON=/path/to/python3" >&2; \
	exit 1

$(VENV)/demo.installed: pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[examples]'
	@touch $@

$(VENV)/docs.installed: pyproject.toml | $(BIN)/python
	$(PIP) install $(PIP_WITH_GROUPS)
	$(PIP) install --editable . --group docs
	@touch $@

$(VENV)/dev.installed: pyproject.toml | $(BIN)/python
	$(PIP) install $(PIP_WITH_GROUPS)
	$(PIP) install --editable . --group dev
	@touch $@ $(VENV)/demo.installed

# Without npm the interop tests skip, saying what to install.
.PHONY: node-packages
ifneq ($(shell command -v npm 2>/dev/null),)
node-packages: $(NODE_PACKAGES)
else
node-packages:
	@echo "no npm on this machine: the tests with Node's bullmq are skipped"
endif

tests/prose/node_modules/.package-lock.json: tests/prose/package.json tests/prose/package-lock.json
	cd tests/prose && npm ci --no-audit --no-fund
	@touch $@

$(NODE_PACKAGES): tests/interop/package.json tests/interop/package-lock.json
	cd tests/interop && npm ci --no-audit --no-fund
	@touch $@
