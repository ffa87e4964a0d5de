# Everything a contributor runs. `make` alone lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# torch's own index, for machines whose package index only has the CUDA build of several GB:
#     make test TORCH_PIP_ARGS='--extra-index-url https://download.pytorch.org/whl/cpu'
TORCH_PIP_ARGS ?=

# The tests start PostgreSQL themselves; torch.compile on a CPU runs g++ and includes Python.h.
PACKAGES := g++ postgresql
PYTHON_H := $(PYTHON) -c 'import os, sys, sysconfig; \
	sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'

.PHONY: help env packages test lint demo bench clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

env: $(STAMP) ## create .venv with aotcache and all that its tests need

$(STAMP): pyproject.toml | packages
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -c 'import torch' 2>/dev/null || \
		$(BIN)/python -m pip install --quiet 'torch==2.13.0' $(TORCH_PIP_ARGS)
	@# A CUDA build of torch brings the Triton it was made for; a CPU build brings none.
	$(BIN)/python -c 'import triton' 2>/dev/null || \
		$(BIN)/python -m pip install --quiet 'triton==3.9.0'
	$(BIN)/python -m pip install --quiet numpy --group test --group lint -e '.[service,postgres]'
	touch $@

packages: ## install the Debian packages that the tests need, where they are missing
	@command -v dpkg-query >/dev/null || \
		{ echo 'No Debian here; the tests need: $(PACKAGES) and Python.h'; exit 0; }; \
	missing=; \
	for package in $(PACKAGES); do \
		dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q 'ok installed' \
			|| missing="$$missing $$package"; \
	done; \
	$(PYTHON_H) || missing="$$missing python3-dev"; \
	$(PYTHON) -c 'import ensurepip' 2>/dev/null || missing="$$missing python3-venv"; \
	test -n "$$missing" || exit 0; \
	echo "Installing$$missing"; \
	sudo=; test "$$(id -u)" = 0 || sudo=sudo; \
	$$sudo apt-get update -qq && \
	$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing

test: env packages ## run all tests
	$(BIN)/python -m pytest

lint: env ## check style, types and import rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

demo: env packages ## show the whole way on this machine: compile, publish, pull, start warm
	$(BIN)/python tests/demo/demo.py

bench: PACKAGES += zstd
bench: env packages ## compare with copying by other means; rewrites the tables of docs/benchmarks.md
	PYTHONPATH=tests $(BIN)/python -m bench.bench

clean: ## remove the environment and everything the tools left behind
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
