# Everything a person needs; `make help` lists it. Works on a machine with nothing but Python 3.11+, make and a package index.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
TORCH  := .cache/torch
STAMP  := $(VENV)/.installed

# Prefect and AWS clients stay at home: state inside this folder, no analytics, no look-ups of cloud credentials.
export PREFECT_HOME := $(CURDIR)/.cache/prefect
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1
export AWS_EC2_METADATA_DISABLED := true
# Prefect's own temporary server takes half a minute to start on a cold machine.
export PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS := 120
# Without compiled modules every start of Prefect compiles them again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo report docs lint check test campaign bench lock clean deploy deploy-local deploy-local-stop test-ops test-torch test-ui packages

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 26

setup: $(STAMP) ## Create .venv with the pinned packages and this project

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Name another: make setup PYTHON=python3.12" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || { \
	  echo "'$(PYTHON) -m venv' failed; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "installing the pinned packages into $(VENV) (1 GB; seconds to a minute)"
	@install_with() { "$$@" --require-hashes -r constraints.txt && "$$@" --no-deps --no-build-isolation -e .; }; \
	{ $(BIN)/python -m pip install --quiet uv && install_with $(BIN)/uv pip install --quiet --python $(BIN)/python; } || { \
	  echo "uv can't be used here; pip does it, in about three minutes"; \
	  install_with $(BIN)/python -m pip install --quiet; }
	@touch $@

demo: export PREFECT_HOME := $(CURDIR)/.demo/prefect
demo: export PREFECT_LOGGING_LEVEL := WARNING
demo: export PREFECT_SERVER_LOGGING_LEVEL := ERROR
demo: $(STAMP) ## Index synthetic scenes of four sensors, cut chips, and name a report to look at
	$(BIN)/python -m flows.demo

report: $(STAMP) ## Draw a warehouse as one HTML page: make report WAREHOUSE=s3://bucket/prefix [OUT=status.html]
	@test -n "$(WAREHOUSE)" || { echo "say which: make report WAREHOUSE=path or s3://bucket/prefix" >&2; exit 2; }
	$(BIN)/python -m flows.report "$(WAREHOUSE)" --out "$(or $(OUT),status.html)"

docs: export NO_MKDOCS_2_WARNING := 1
docs: $(STAMP) ## Build the documentation site, strictly and without network, into .cache/site
	$(BIN)/mkdocs build --strict --quiet
	@echo "open .cache/site/index.html; for its search: python3 -m http.server --bind 127.0.0.1 --directory .cache/site"

ENVIRONMENT ?= local

deploy: $(STAMP) ## Set up and deploy ENVIRONMENT (local, staging, production) on the server of PREFECT_API_URL
	STACCHIP_ENVIRONMENT=$(ENVIRONMENT) $(BIN)/python -m deployments.setup

deploy-local: $(STAMP) ## Prefect's server, a worker and all deployments on this machine; Ctrl-C ends them
	$(BIN)/python -m deployments.local

deploy-local-stop: $(STAMP) ## End what deploy-local started
	$(BIN)/python -m deployments.local --stop

lint: $(STAMP) ## Lint, format check and strict types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint ## Lint, types and unit tests without servers: the inner loop, at most 3 minutes
	$(BIN)/pytest -q -n auto -m "not server and not slow and not benchmark and not ops and not ui"

test: lint packages ## Everything except benchmarks; skipped tests are listed with their reasons
	$(BIN)/pytest -q -n auto -m "not server and not benchmark and not ops and not ui"
	$(BIN)/pytest -q -n 2 --dist loadfile -m "server and not benchmark and not ops and not ui"

test-ui: $(STAMP) packages ## Press the buttons of Prefect's pages in a browser; SCREENSHOTS=docs/images keeps its pictures
	STACCHIP_SCREENSHOTS="$(SCREENSHOTS)" $(BIN)/pytest -q -p no:cacheprovider -m "ui" tests/ui

# Debian package, and a file by which it is known to be there.
PACKAGES := chromium:/usr/bin/chromium postgresql:/usr/lib/postgresql/*/bin/initdb \
  postgresql-postgis:/usr/share/postgresql/*/extension/postgis.control

packages: ## Install from Debian what tests need and is missing; nothing happens where all is there
	@missing=; for one in $(PACKAGES); do ls $${one#*:} >/dev/null 2>&1 || missing="$$missing $${one%%:*}"; done; \
	test -z "$$missing" || { apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing >/dev/null; } || \
	  echo "can't be installed:$$missing; what needs them is skipped, uses SQLite, or says so" >&2

test-ops: $(STAMP) ## Kill workers, overlap runs, press buttons under load, on PostgreSQL too: some ten minutes
	$(BIN)/pytest -q -p no:cacheprovider -m "ops" tests/ops tests/test_operations.py

test-torch: $(STAMP) ## Run the PyTorch tests in .cache/torch, an environment of its own (1 GB more; PyPI's CUDA build: 5 GB)
	@test -x $(TORCH)/bin/python || $(PYTHON) -m venv $(TORCH)
	@$(TORCH)/bin/python -c 'import torch, stacchip_core' 2>/dev/null || { \
	  $(BIN)/uv pip install --quiet --python $(TORCH)/bin/python --require-hashes -r constraints.txt && \
	  $(BIN)/uv pip install --quiet --python $(TORCH)/bin/python --no-deps --no-build-isolation -e . && \
	  $(TORCH)/bin/python -m pip install --quiet torch==2.13.0; }
	$(TORCH)/bin/python -m pytest -q tests/test_torch.py

campaign: $(STAMP) ## Race, kill and fail for hours, on Ceph's S3 server too; figures go into docs/reliability.md
	@command -v radosgw >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends \
	  radosgw ceph-mon ceph-osd ceph-mgr ceph-common >/dev/null; } || { \
	  echo "Ceph's S3 server is not installed and can't be; tests/campaign/radosgw.py names its packages" >&2; exit 1; }
	$(BIN)/python -m tests.campaign.radosgw $(BIN)/pytest -q tests/test_store.py tests/test_store_races.py -k own_server
	$(BIN)/python -m tests.campaign.races --rounds 10000 --backend local
	$(BIN)/python -m tests.campaign.races --rounds 10000 --backend fake
	$(BIN)/python -m tests.campaign.races --rounds 10000 --backend radosgw
	$(BIN)/python -m tests.campaign.races --lost 2000
	$(BIN)/python -m tests.campaign.kills --kills 2000 --backend local
	$(BIN)/python -m tests.campaign.kills --kills 500 --backend fake
	$(BIN)/python -m tests.campaign.hostile --scripts 1000
	$(BIN)/python -m tests.campaign.machine --examples 1000 --steps 500

bench: $(STAMP) ## Measure indexing and cutting beside stacchip, on a full-size scene
	$(BIN)/python -m tests.benchmarks.compare
	$(BIN)/python -m tests.benchmarks.datasets
	$(BIN)/python -m tests.benchmarks.manifest
	$(BIN)/python -m tests.benchmarks.merging

lock: $(STAMP) ## Pin the newest releases that pyproject.toml allows into constraints.txt
	$(BIN)/uv pip compile pyproject.toml --all-extras --group dev --python-version 3.11 --universal \
	  --generate-hashes --no-emit-index-url --no-header --upgrade --quiet -o constraints.txt

clean: ## Remove the environment, caches and the demo's files
	rm -rf $(VENV) .demo .local .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis dist
	find flows stacchip_core tests -name __pycache__ -type d -exec rm -rf {} +
