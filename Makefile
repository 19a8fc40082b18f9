# All set-up is done here: nothing but python3 (3.11 or newer) and make is needed. `make help` lists the targets.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST_WORKERS ?= 2
MINUTES ?= 2
AUDIT_VENV ?= .venv-audit
FUZZ_EXAMPLES ?= 20000
API ?= http://127.0.0.1:8080
EXAMPLES ?= 1000
LAW_EXAMPLES ?= 10000
MODEL_EXAMPLES ?= 1000
SEEDS ?= 10000
KILLS ?= 1000
ROTATIONS ?= 50
ROUNDS ?= 5
PYTHONS ?= python3.11 python3.12 python3.13
UV := uv==0.13.9

# $(call install,VENV,WHAT,LOCK FILES): what is locked, by hash, into a virtual environment, which is made if need be.
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --no-deps
define install
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; say which with PYTHON=..." >&2; exit 1; }
@$(1)/bin/python -m pip --version >/dev/null 2>&1 || { \
	if test -e $(1) && ! test -e $(1)/pyvenv.cfg; then echo "$(1) is in the way: it is no virtual environment." >&2; exit 1; fi; \
	rm -rf $(1); $(PYTHON) -m venv $(1) || { rm -rf $(1); echo "No virtual environment can be made." \
	"On Debian, Ubuntu and WSL: sudo apt install python3-venv; then run make again." >&2; exit 1; }; }
@echo "Installing $(2) into $(1) ..."
@$(1)/bin/python $(PIP_INSTALL) --require-hashes $(3:%=-r requirements/%.txt)
endef

# $(call install-project,VENV,FOLDER): this project, or one of its packages, as it stands here, to be edited.
define install-project
@$(1)/bin/python $(PIP_INSTALL) --no-build-isolation --editable $(or $(2),.)
endef

.DEFAULT_GOAL := help

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-23s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.run: requirements/run.txt requirements/build.txt pyproject.toml
	$(call install,$(VENV),the locked dependencies,run build)
	$(call install-project,$(VENV))
	@touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml
	$(call install,$(VENV),the locked development dependencies,dev)
	$(call install-project,$(VENV))
	@touch $@ $(VENV)/.run

$(VENV)/.bench: $(VENV)/.dev requirements/bench.txt
	$(call install,$(VENV),the benchmarks' peer,bench)
	@touch $@

DEMO_VENV ?= .venv-demo

$(VENV)/.mutation: $(VENV)/.dev requirements/mutation.txt
	$(call install,$(VENV),the mutation tester,mutation)
	@touch $@

$(DEMO_VENV)/.made: requirements/demo.txt clients/python/pyproject.toml
	$(call install,$(DEMO_VENV),the shop's locked dependencies,demo)
	$(call install-project,$(DEMO_VENV),clients/python)
	@touch $@

GATEWAYS_VENV ?= .venv-gateways
GATEWAYS_BIN := $(GATEWAYS_VENV)/bin

$(GATEWAYS_VENV)/.made: requirements/gateways.txt pyproject.toml clients/python/pyproject.toml
	$(call install,$(GATEWAYS_VENV),the locked gateways and the shop's dependencies,gateways)
	$(call install-project,$(GATEWAYS_VENV))
	$(call install-project,$(GATEWAYS_VENV),clients/python)
	@touch $@

.PHONY: run
run: $(VENV)/.run ## serve on 127.0.0.1:8080 with a keyring made on first start
	@$(BIN)/python -m service serve

.PHONY: test
test: lint types imports unit ## everything that main must pass

# A Python that only a version manager's shim stands for counts as missing.
.PHONY: test-pythons
test-pythons: ## `make test` on each of PYTHONS="python3.11 python3.12 python3.13" that is here
	@found=0; for python in $(PYTHONS); do \
		version=$$($$python -c 'import sys; print("{}.{}".format(*sys.version_info))' 2>/dev/null) \
			|| { echo "$$python is not here: left out" >&2; continue; }; \
		found=1; echo "== $$python"; \
		$(MAKE) --no-print-directory test PYTHON=$$python VENV=.venv-$$version || exit 1; \
	done; [ $$found = 1 ] || { echo "none of these is here: $(PYTHONS)" >&2; exit 1; }

# So many private functions of service/ may have a single use, less one.
USED_ONCE := 60

.PHONY: lint
lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(BIN)/python -m tests.lint.private_functions service $(USED_ONCE)

.PHONY: types
types: $(VENV)/.dev
	$(BIN)/mypy

.PHONY: imports
imports: $(VENV)/.dev
	$(BIN)/lint-imports --no-cache

# What the safety of every token hangs on: no branch of these goes untested.
COVERED := tokens.claims tokens.payload_patch keys.keyring keys.encoding keys.signer

.PHONY: unit
unit: $(VENV)/.dev
	$(BIN)/pytest -n $(PYTEST_WORKERS) $(COVERED:%=--cov=service.%) --cov-branch --cov-report=term-missing:skip-covered --cov-fail-under=100

.PHONY: laws
laws: $(VENV)/.dev ## the laws of merging and of the keyring, each on 10,000 new examples (LAW_EXAMPLES=...), and a fleet of keepers and followers in random order (MODEL_EXAMPLES=1000); half an hour
	MERGE_LAW_EXAMPLES=$(LAW_EXAMPLES) RING_LAW_EXAMPLES=$(LAW_EXAMPLES) RING_MODEL_EXAMPLES=$(MODEL_EXAMPLES) \
		$(BIN)/pytest -n $(PYTEST_WORKERS) --timeout 7200 tests/merge/test_laws.py tests/merge/test_three_ways.py tests/keys/test_laws.py tests/keys/test_model.py

.PHONY: browsers
browsers: $(VENV)/.dev ## simulated browsers whose changes race, SEEDS=10000 of them with one and with two workers; an hour
	@$(BIN)/python -m tests.system.browsers --seeds $(SEEDS)

.PHONY: bench-merge
bench-merge: $(VENV)/.run ## what a merge costs, and that it is linear
	@$(BIN)/python -m benchmarks.merging

.PHONY: kill9
kill9: $(VENV)/.dev ## kill -9 at random points of first starts and rotations (KILLS=...); minutes
	@$(BIN)/python -m tests.chaos.kill9 --kills $(KILLS)

.PHONY: cold-starts
cold-starts: $(VENV)/.dev ## fifty services at once where there is no keyring yet
	@$(BIN)/python -m tests.chaos.cold_starts

.PHONY: chaos
chaos: $(VENV)/.dev ## a fleet under load while Redis fails and the keys rotate (ROTATIONS=...); half an hour
	@$(BIN)/python -m tests.chaos.outages --rotations $(ROTATIONS)

.PHONY: clocks
clocks: $(VENV)/.dev ## the same fleet with clocks that are apart, jump, and reach 2038, 2106 and 2200; minutes
	@$(BIN)/python -m tests.chaos.clocks

.PHONY: upgrade
upgrade: $(VENV)/.dev ## a fleet of 0.1.0 under load upgraded replica by replica, and back, for ROUNDS=5; minutes
	@$(BIN)/python -m tests.chaos.upgrade --rounds $(ROUNDS)

# --- the clients ---

# The venv of all that is tried on the built clients; the service has its own, so that no client leans on it.
CLIENTS_VENV ?= .venv-clients
CLIENTS_BIN := $(CLIENTS_VENV)/bin
CLIENTS_PYTEST = GUEST_SERVICE_PYTHON=$(abspath $(BIN))/python $(CLIENTS_BIN)/pytest

$(CLIENTS_VENV)/.made: requirements/clients.txt
	$(call install,$(CLIENTS_VENV),the frameworks that the clients are tried in,clients)
	@touch $@

PY := clients/python
PY_APPS := tests/clients/apps/python
PY_WHEEL := dist/guest_sessions_client-$(shell sed -n 's/^version = "\(.*\)"/\1/p' $(PY)/pyproject.toml)-py3-none-any.whl

$(PY_WHEEL): $(CLIENTS_VENV)/.made $(PY)/pyproject.toml $(PY)/README.md $(PY)/CHANGELOG.md $(wildcard $(PY)/guest_sessions/*.py)
	@rm -f dist/guest_sessions_client-*
	@cd $(PY) && $(abspath $(CLIENTS_BIN))/python -m hatchling build -d $(abspath dist)

$(CLIENTS_VENV)/.client: $(PY_WHEEL)
	@$(CLIENTS_BIN)/python $(PIP_INSTALL) --force-reinstall $(PY_WHEEL)
	@touch $@

# $(call npm-ci,FOLDER): what its lock file names; without npm it is left out.
define npm-ci
@if command -v npm >/dev/null; then cd $(1) && npm ci --silent --no-audit --no-fund && touch node_modules/.made; \
else echo "npm is not here: $(1) is left out" >&2; fi
endef

JS := clients/javascript
JS_APPS := tests/clients/apps/javascript
JS_TARBALL := dist/guest-sessions-$(shell sed -n 's/^  "version": "\(.*\)",/\1/p' $(JS)/package.json).tgz
GO_APPS := tests/clients/apps/go
EXPRESS := examples/middleware/express
LOGIN := examples/login
GENERATED := tests/generated
OAUTH := tests/oauth

$(JS)/node_modules/.made: $(JS)/package.json $(JS)/package-lock.json
	$(call npm-ci,$(JS))

$(JS_TARBALL): $(JS)/node_modules/.made $(JS)/tsconfig.json $(JS)/README.md $(JS)/CHANGELOG.md $(wildcard $(JS)/src/*.ts)
	@if command -v npm >/dev/null; then mkdir -p dist && cd $(JS) && npm pack --silent --pack-destination ../../dist; fi

# What installs the packed client.
$(JS_APPS)/node_modules/.made $(EXPRESS)/node_modules/.made $(LOGIN)/node_modules/.made: %/node_modules/.made: \
		$(JS_TARBALL) %/package.json %/package-lock.json
	$(call npm-ci,$*)

$(GENERATED)/node_modules/.made $(OAUTH)/node_modules/.made: %/node_modules/.made: %/package.json %/package-lock.json
	$(call npm-ci,$*)

.PHONY: client-python
client-python: $(PY_WHEEL) ## build the Python client's wheel and source distribution into dist/

.PHONY: client-javascript
client-javascript: $(JS_TARBALL) ## pack the JavaScript client into dist/; needs npm

.PHONY: client-go
client-go: ## pack the Go client into dist/goproxy, laid out as a module proxy
	@rm -rf dist/goproxy
	@$(PYTHON) clients/pack_go.py dist/goproxy

.PHONY: clients
clients: client-python client-javascript client-go ## build the clients' packages into dist/; without npm, those that need none

# With one worker more than cores, as half of the time goes by in waiting.
.PHONY: conformance
conformance: clients $(VENV)/.run $(CLIENTS_VENV)/.client $(JS_APPS)/node_modules/.made ## the clients' conformance suite, in every framework, on the built packages
	@if command -v go >/dev/null; then $(PYTHON) $(GO_APPS)/build.py dist/goproxy; fi
	$(CLIENTS_BIN)/mypy --config-file $(PY)/pyproject.toml $(PY)/guest_sessions
	MYPYPATH=$(PY_APPS) $(CLIENTS_BIN)/mypy --config-file $(PY)/pyproject.toml --explicit-package-bases $(PY_APPS) examples/middleware/python
	$(CLIENTS_PYTEST) -n $$(($(PYTEST_WORKERS) + 1)) --timeout 600 --confcutdir=tests/clients tests/clients

.PHONY: test-client-javascript
test-client-javascript: $(JS)/node_modules/.made ## the JavaScript client's own tests, and its types; needs npm
	@if command -v npm >/dev/null; then cd $(JS) && npm test; fi

.PHONY: test-client-go
test-client-go: $(VENV)/.run $(CLIENTS_VENV)/.made ## the Go client's own tests, as packed, and the program of its README; needs Go
	$(CLIENTS_PYTEST) --timeout 600 --confcutdir=tests/clients tests/clients/test_go_module.py

.PHONY: test-login
test-login: $(VENV)/.run $(CLIENTS_VENV)/.client $(LOGIN)/node_modules/.made ## handing over at login in SuperTokens, better-auth, Auth.js, Django and Authlib, on the built clients
	$(CLIENTS_PYTEST) -n $(PYTEST_WORKERS) --timeout 300 --confcutdir=tests/login tests/login

.PHONY: test-oauth
test-oauth: $(VENV)/.run $(CLIENTS_VENV)/.made $(OAUTH)/node_modules/.made ## token exchange by OAuth clients for Python, Node and Go, and what they verify offline
	$(CLIENTS_PYTEST) --timeout 600 --confcutdir=$(OAUTH) $(OAUTH)

.PHONY: test-clients
test-clients: $(VENV)/.run $(CLIENTS_VENV)/.made $(GENERATED)/node_modules/.made ## clients that npm, Go, Java and Rust generators make of openapi.yaml, on the service; minutes
	$(CLIENTS_PYTEST) --timeout 900 --confcutdir=$(GENERATED) --durations 0 --durations-min 1 $(GENERATED)

.PHONY: release-check
release-check: $(VENV)/.dev clients ## build all packages into dist/, install each in an empty place and try it there
	@rm -f dist/guest_sessions-*
	@$(BIN)/python -m hatchling build -d dist
	$(BIN)/pytest -n $(PYTEST_WORKERS) --timeout 600 tests/release

# --- the examples ---

.PHONY: test-gateways
test-gateways: $(GATEWAYS_VENV)/.made $(EXPRESS)/node_modules/.made ## the real gateways and frameworks, with the files of examples/
	$(GATEWAYS_BIN)/pytest -n $(PYTEST_WORKERS) --dist worksteal --timeout 300 --confcutdir=tests/gateways tests/gateways

.PHONY: gateway-api
gateway-api: $(GATEWAYS_VENV)/.made ## translate the examples for the Gateway API again, after a change of them or of Envoy Gateway's version; needs Go
	$(GATEWAYS_BIN)/python -m tests.gateways.gateway_api

.PHONY: test-shop
test-shop: $(GATEWAYS_VENV)/.made ## the demo shop and the API page, driven in headless Chromium
	$(GATEWAYS_BIN)/pytest --timeout 300 --confcutdir=tests/shop tests/shop

.PHONY: test-prometheus
test-prometheus: $(VENV)/.dev ## the alerts and the dashboard's expressions, read by Prometheus' own code; needs Go
	$(BIN)/pytest --timeout 1200 tests/prometheus

.PHONY: screenshots
screenshots: $(GATEWAYS_VENV)/.made ## take the pictures in docs/images again
	SHOP_SCREENSHOTS=docs/images $(GATEWAYS_BIN)/pytest --confcutdir=tests/shop tests/shop -k come_together

.PHONY: dashboard-picture
dashboard-picture: $(VENV)/.dev ## take the dashboard's picture in docs/images again; needs npm, Chromium, and Debian's prometheus and pngquant
	@$(BIN)/python -m tests.prometheus.picture

.PHONY: demo
demo: $(DEMO_VENV)/.made ## a small shop with guest sessions, on 127.0.0.1:8000
	@$(DEMO_VENV)/bin/python examples/shop/demo.py

.PHONY: fuzz-api
fuzz-api: $(VENV)/.dev ## hold openapi.yaml against the live service at API=..., with EXAMPLES=... new requests an operation
	$(BIN)/schemathesis run openapi.yaml --url $(API) --phases examples,coverage,fuzzing --max-examples $(EXAMPLES)

.PHONY: bench
bench: $(VENV)/.bench ## measure against a constant aiohttp handler and a peer; text, JSON and SVG in benchmarks/out/
	@$(BIN)/python -m benchmarks $(BENCH)

.PHONY: bench-pythons
bench-pythons: $(VENV)/.bench ## the service under each of PYTHONS that is here, and each Python's constant handler, in one run
	@options=; for python in $(PYTHONS); do \
		version=$$($$python -c 'import sys; print("{}.{}".format(*sys.version_info))' 2>/dev/null) \
			|| { echo "$$python is not here: left out" >&2; continue; }; \
		$(MAKE) --no-print-directory .venv-$$version/.run PYTHON=$$python VENV=.venv-$$version || exit 1; \
		options="$$options --python .venv-$$version/bin/python"; \
	done; $(BIN)/python -m benchmarks --no-peer --out benchmarks/out/pythons $$options $(BENCH)

.PHONY: bench-limits
bench-limits: $(VENV)/.bench ## the time to start, memory after a million requests, latency at 70 % of the peak
	@$(BIN)/python -m benchmarks.limits $(BENCH)

.PHONY: bench-check
bench-check: $(VENV)/.bench ## show that the benchmarks work; measures nothing
	@$(BIN)/python -m benchmarks --quick --out benchmarks/out/check

.PHONY: fuzz
fuzz: $(VENV)/.dev ## arbitrary and mutated input at every door, FUZZ_EXAMPLES=20000 new ones for each; minutes
	FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/pytest -n $(PYTEST_WORKERS) --timeout 3600 tests/security/test_fuzz.py

.PHONY: wycheproof
wycheproof: $(VENV)/.dev ## Project Wycheproof's vectors, of a folder that holds them: WYCHEPROOF=.../testvectors_v1
	WYCHEPROOF=$(WYCHEPROOF) $(BIN)/pytest -n $(PYTEST_WORKERS) tests/wycheproof

.PHONY: soak
soak: $(VENV)/.dev ## good and hostile traffic while keys rotate and Redis fails, for MINUTES=2; report in soak-report/
	@$(BIN)/python -m soak --minutes $(MINUTES)

.PHONY: mutation
mutation: $(VENV)/.mutation ## mutate the modules that safety depends on, and list the mutants that no test notices; an hour
	@$(BIN)/mutmut run
	@$(BIN)/mutmut results

$(AUDIT_VENV)/.made: requirements/audit.txt
	$(call install,$(AUDIT_VENV),the locked auditors,audit)
	@touch $@

.PHONY: audit
audit: $(AUDIT_VENV)/.made ## are there known faults in what is locked? needs PyPI's own service; fails where it cannot be asked
	$(AUDIT_VENV)/bin/pip-audit --strict --require-hashes --disable-pip --progress-spinner off -r requirements/run.txt \
		$$(sed -n 's/^\([A-Z][A-Za-z0-9-]*\) .*/--ignore-vuln \1/p' requirements/audit-accepted.list)

.PHONY: sbom
sbom: $(AUDIT_VENV)/.made ## what the service consists of, with hashes: sbom.cdx.json (CycloneDX)
	@$(AUDIT_VENV)/bin/python -W ignore -m cyclonedx_py requirements requirements/run.txt --pyproject pyproject.toml --output-reproducible --of JSON -o sbom.cdx.json
	@echo sbom.cdx.json

.PHONY: format
format: $(VENV)/.dev ## put the code into its form
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

LOCK := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	--no-emit-find-links --upgrade --quiet
.PHONY: lock
lock: $(VENV)/.dev ## resolve the dependencies again, for every supported Python, with hashes
	@$(BIN)/python $(PIP_INSTALL) $(UV)
	$(LOCK) pyproject.toml -o requirements/run.txt
	$(LOCK) pyproject.toml --group dev -o requirements/dev.txt
	$(LOCK) --group audit -o requirements/audit.txt
	$(LOCK) --group build -c requirements/dev.txt -o requirements/build.txt
	$(LOCK) --group clients -c requirements/dev.txt -o requirements/clients.txt
	$(LOCK) pyproject.toml --group demo -c requirements/dev.txt -o requirements/demo.txt
	$(LOCK) pyproject.toml --group gateways -c requirements/dev.txt -o requirements/gateways.txt
	$(LOCK) --group mutation -c requirements/dev.txt -o requirements/mutation.txt
	$(LOCK) pyproject.toml --group bench -c requirements/dev.txt -o requirements/bench.txt

# `data` holds keys and `.env` secrets: both stay.
.PHONY: clean
clean: ## remove what was built, but neither data/ nor .env
	rm -rf $(VENV) $(DEMO_VENV) $(GATEWAYS_VENV) $(CLIENTS_VENV) $(AUDIT_VENV) .venv-3.*
	rm -rf $(EXPRESS)/node_modules $(GENERATED)/node_modules $(OAUTH)/node_modules $(JS_APPS)/node_modules $(JS)/node_modules $(JS)/dist $(LOGIN)/node_modules
	rm -rf tests/prometheus/picture/node_modules $(GO_APPS)/module $(GO_APPS)/net-http
	rm -rf dist build *.egg-info sbom.cdx.json benchmarks/out soak-report mutants htmlcov .coverage .coverage.*
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .schemathesis
	find service tests soak benchmarks examples clients -name __pycache__ -type d -prune -exec rm -rf {} +
