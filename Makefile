# The one door to everything; `make help` lists what is behind it.

PY := .venv/bin/python
READY := .venv/requirements.sha256
TESTS ?= tests

.DEFAULT_GOAL := help
# Without compiled modules every process starts seconds later.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help setup up down reset demo status logs staff key audit seed test test-long test-fast check format bench fuzz chaos chaos-selftest docs openapi events

help: ## list the targets
	@awk -F ': .*## ' '/^[a-z-]+:.* ## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## make the virtual environment (every target does, when it has to)

$(READY): requirements.lock $(PY)
	@infra/setup.sh

$(PY): # gone with the Python that it was made with
	@infra/setup.sh

up: $(READY) ## start everything and wait until it is healthy; SCALE="auth=2" starts more
	@$(PY) -m infra.launch up

down: $(READY) ## stop everything; the data stays
	@$(PY) -m infra.launch down

reset: $(READY) ## stop everything and forget all data
	@$(PY) -m infra.launch reset

demo: up ## start everything and bill a customer, step by step
	@$(PY) -m infra.launch client infra.demo

status: $(READY) ## what runs, and whether it is healthy
	@$(PY) -m infra.launch status

logs: $(READY) ## follow the logs; NAME=auth-api follows one process
	@$(PY) -m infra.launch logs $(NAME)

staff: $(READY) ## make a staff user: EMAIL=ada@example.com PASSWORD=…
	@PERENNIAL_STAFF_PASSWORD='$(PASSWORD)' $(PY) -m infra.launch exec auth staff '$(EMAIL)'

key: $(READY) ## make a secret key for your backend: NAME=backend SCOPES=all (or catalog:write,…)
	@$(PY) -m infra.launch exec auth key '$(NAME)' --scopes '$(SCOPES)' $(ARGS)

audit: $(READY) ## compare invoices, payments, ledger and providers; fails on a difference; DAYS=2
	@$(PY) -m infra.launch exec payments audit $(if $(DAYS),--days $(DAYS))

seed: $(READY) ## load a believable catalog of plans, prices, add-ons and coupons
	@$(PY) -m infra.launch exec subscriptions seed

test: $(READY) ## all tests, on real servers that they start themselves; TESTS=tests/auth runs some
	@$(PY) -m infra.native install || echo 'The tests that need these programs are left out.'
	@$(PY) -m pytest $(TESTS) -m "not benchmark and not chaos and not long"

test-long: $(READY) ## what `make test` leaves out for its length: previews and upgrades, every kind
	@$(PY) -m pytest $(TESTS) -m long

test-fast: $(READY) ## the tests that need no servers
	@$(PY) -m pytest $(TESTS) -m "not servers and not benchmark and not chaos and not long" -q \
		--hypothesis-profile=fast

check: $(READY) ## formatting, lint, types, imports
	@.venv/bin/ruff format --check --quiet . || { echo 'make format formats it'; exit 1; }
	@.venv/bin/ruff check --quiet .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

format: $(READY) ## format the code and repair what lint can
	@.venv/bin/ruff format . && .venv/bin/ruff check --fix --quiet .

bench: $(READY) ## measure; asserts nothing about time
	@$(PY) -m pytest $(TESTS) -m benchmark -s

fuzz: $(READY) ## ask every operation for nonsense, FUZZ_SECONDS=600 as staff and as long as a customer
	@FUZZ_SECONDS=$(or $(FUZZ_SECONDS),600) $(PY) -m pytest tests/fuzz --timeout 0

chaos: $(READY) ## break a whole system: CHAOS_FAULTS=300 CHAOS_SUBSCRIPTIONS=400 CHAOS_SEED=1
	@$(PY) -m tests.chaos

chaos-selftest: $(READY) ## plant defects, and see that each is found
	@$(PY) -m tests.chaos.selftest

docs: $(READY) ## write the generated pages, OpenAPI and event documents
	@$(PY) -m infra.docs

openapi events: docs
