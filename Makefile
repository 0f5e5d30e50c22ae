# Two commands for a stranger: `make demo` and `make test`. Both set themselves up.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The CPU build by default; for CUDA or ROCm name the index that has it: make setup TORCH_INDEX_URL=...
TORCH ?= torch==2.13.0
TORCH_INDEX_URL ?=
BUF := @bufbuild/buf@1.75.0
export PATH := $(CURDIR)/$(BIN):$(PATH)
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: help setup proto demo up test lint bench format lock clean

help: ## this list
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "  %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## a virtual environment with everything, and the default weights

$(VENV)/.ready: pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# torch goes in alone and first: anything that may choose a build itself would draw gigabytes of another one
	$(BIN)/pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) "$(TORCH)"
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	$(BIN)/understudy weights fetch
	touch $@

proto: setup ## stubs and descriptor from proto/
	$(BIN)/python proto/generate.py . build/v1.descriptor.binpb

demo: setup ## the whole job on footage that it makes: build/demo/result.mp4 and report.html
	$(BIN)/python -m understudy.demo --out build/demo

up: setup ## all services in one process on loopback, until Ctrl-C
	$(BIN)/understudy up

test: setup ## every test that this machine can run
	@# a file stays with one process (its server and its Ray are started once); in order, since the long files come early
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

lint: setup ## ruff, mypy, buf
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@mkdir -p build/lint && $(BIN)/python proto/generate.py build/lint build/lint/v1.descriptor.binpb
	@if command -v npx >/dev/null; then npx --yes $(BUF) lint build/lint/v1.descriptor.binpb --config proto/buf.yaml && echo "buf: clean"; \
	else echo "buf: skipped, there is no npx here (install Node.js to run it)"; fi

format: setup ## ruff's formatting and safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## benchmarks into build/bench.json; ONLY=faces,media for some
	$(BIN)/python -m tests.bench $(if $(ONLY),--only $(ONLY))

lock: ## exact versions from what is installed now
	$(BIN)/pip freeze --exclude-editable --exclude torch --exclude pip --exclude setuptools > requirements.lock

clean: ## build results; never footage, weights or the environment
	rm -rf build
