# Everything that is done to this project, on a developer's machine and in CI, is done from here.

.DEFAULT_GOAL := help
.PHONY: help setup setup-tests test test-python test-elixir fuzz chaos soak bench sanitize demo check \
    check-python check-elixir check-models format clean

PYTHON := $(CURDIR)/.venv/bin/python
HARNESS := elixir_harness
EXAMPLE := $(HARNESS)/examples/session_lifecycle_example
MIX_PROJECTS := $(patsubst %/mix.exs,%,$(wildcard $(HARNESS)/mix.exs $(HARNESS)/examples/*/mix.exs))
FUZZ_TARGETS := $(sort $(patsubst tests/fuzz/fuzz_%.py,%,$(wildcard tests/fuzz/fuzz_*.py)))
SECONDS := 60
OWNERS := 1000000
CROWD := 10000
# For commands that start BEAM nodes: an EPMD of their own, which ends with them.
WITH_EPMD := $(PYTHON) $(CURDIR)/scripts/with_epmd.py

# mix wants UTF-8, and shall not look for Hex in the home directory: it is not needed.
export LC_ALL := C.UTF-8
export MIX_HOME := $(CURDIR)/.cache/mix
export SNAKEBRIDGE_PYTHON := $(PYTHON)

help: ## Show this list.
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 16

setup: ## Install what is missing: Erlang, Elixir, and the virtual environment .venv.
	@scripts/setup.sh

setup-tests:
	@scripts/setup.sh tests

test: setup-tests check test-python test-elixir ## Run all checks, and all tests of both halves.

test-python: setup-tests ## Run the tests in tests/.
	@$(PYTHON) -m pytest

test-elixir: setup ## Run the tests of the Elixir library and of its examples.
	@set -e; for project in $(MIX_PROJECTS); do \
	    (cd $$project && $(WITH_EPMD) mix test); \
	done

fuzz: setup ## Fuzz each parser, guided by coverage, for SECONDS=60.
	@set -e; for target in $(FUZZ_TARGETS); do \
	    echo "Fuzzing $$target ..."; \
	    $(PYTHON) -m tests.fuzz.run $$target -max_total_time=$(SECONDS) \
	        -verbosity=0 -print_final_stats=1; \
	done

chaos: setup ## Kill and cut nodes at random for SECONDS=60, or as SEED says; see tests/chaos.
	@$(PYTHON) -m tests.chaos.run --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

soak: setup ## Let OWNERS=1000000 come and go and CROWD=10000 die at once; see tests/soak.
	@$(PYTHON) -m tests.soak.run $(OWNERS) $(CROWD)

bench: setup ## Compare with a BEAM peer and others; BENCH="--help" for options; see benchmarks.
	@$(PYTHON) -c 'import grpc, msgpack' 2>/dev/null || $(PYTHON) -m pip install --quiet \
	    --disable-pip-version-check --config-settings editable_mode=compat --editable '.[bench]'
	@cd $(HARNESS) && MIX_ENV=dev $(CURDIR)/scripts/quietly.sh mix compile
	@$(PYTHON) -m benchmarks.run $(BENCH)

sanitize: setup-tests ## Run the tests of the codec with memory errors of the compiled parts found.
	@scripts/sanitize.sh

demo: setup ## Run the example, a tour of how sessions live and end.
	@cd $(EXAMPLE) && $(WITH_EPMD) mix run --no-start run.exs

check: check-python check-elixir check-models ## Check format, style, types, layers and models.

check-python: setup
	@$(PYTHON) -m ruff format --quiet --check --diff .
	@$(PYTHON) -m ruff check --quiet .
	@$(PYTHON) -m mypy --no-error-summary
	@scripts/quietly.sh .venv/bin/lint-imports --no-logo --cache-dir .cache/import-linter

check-elixir: setup
	@set -e; for project in $(MIX_PROJECTS); do \
	    (cd $$project && mix format --check-formatted && \
	     MIX_ENV=dev $(CURDIR)/scripts/quietly.sh mix compile --force --warnings-as-errors); \
	done
	@scripts/dialyzer.sh $(MIX_PROJECTS)

check-models: setup
	@scripts/models.sh

format: setup ## Format all code.
	@$(PYTHON) -m ruff check --quiet --fix-only .
	@$(PYTHON) -m ruff format --quiet .
	@set -e; for project in $(MIX_PROJECTS); do (cd $$project && mix format); done

clean: ## Remove what can be made again.
	@rm -rf .venv .cache .hypothesis .pytest_cache build dist *.egg-info
	@for project in $(MIX_PROJECTS); do rm -rf $$project/_build; done
	@find pynode -name '*.so' -delete
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
