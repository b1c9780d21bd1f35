# make setup         .venv with everything that run, test and check need (Python 3.11 or later, pip, PyPI)
# make run           the main job: every policy against four scenarios;  make run ARGS="--schedules 20" for all of them
# make test          the tests;  make test ARGS="-k apic";  KSTACK_LONG=1 make test has the nightly run's too
# make check         style, types, layers, and the examples in the documentation
# make bench         speed, beside bare Unicorn and QEMU;  make bench ARGS="--only slice"
# make nightly       mutants, seeded bugs, what exploring decides, faults everywhere, false alarms, hostile guests: hours;  JOBS=2
# make fuzz          hostile files, guided by coverage;  make fuzz SECONDS=600 ARGS="recording elf"
# make format        let ruff format and fix what it can
# make setup-system  Debian packages that some tests compare with (root or sudo); without them these tests skip
# make clean         remove everything that was made

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
JOBS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); [ $$n -le 8 ] || n=8; echo $$n)
SYSTEM_PACKAGES := qemu-system-x86 gdb binutils chromium spin
ARGS ?=
SECONDS ?= 600
COMMA := ,

.PHONY: setup run test check bench nightly fuzz format setup-system clean
.DEFAULT_GOAL := setup

setup: $(STAMP)

# Debian's Python may lack ensurepip (package python3-venv); its pip can install into the new environment.
$(STAMP): pyproject.toml
	@[ -n "$(PYTHON)" ] || { echo "No Python found: install Python 3.11 or later, or give make PYTHON=/path/to/python"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than Python 3.11: give make PYTHON=/path/to/python3.11"; exit 2; }
	[ -x $(BIN)/pip ] || $(PYTHON) -m venv --clear $(VENV) || \
		{ $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install pip; }
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[dev,strategies,check,report,dask,trace,view]'
	@touch $@

run: setup
	$(BIN)/kstack compare $(or $(ARGS),--scenarios laight$(COMMA)wilcox$(COMMA)quiet-then-deep$(COMMA)deep --schedules 3)

test: setup
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --durations=10 -m "not docs" $(ARGS)

# All of them, also when one fails.
check: setup
	@failed=; for step in "ruff check ." "ruff format --check ." mypy lint-imports \
		"python -m pytest -q -n $(JOBS) -m docs -p no:randomly tests/quality/test_docs_examples.py"; do \
		echo "check: $$step"; $(BIN)/$$step || failed="$$failed\n  $$step"; \
	done; [ -z "$$failed" ] || { printf "failed:$$failed\n"; exit 1; }

bench: setup bench/peers/installed
	$(BIN)/python -m bench $(ARGS)

bench/peers/installed:
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --target $@ 'frontrun==0.7.0' || \
		{ rm -rf $@; echo "frontrun cannot be installed: bench goes on without it"; }

nightly: setup
	KSTACK_LONG=1 KSTACK_FUZZ=10 $(BIN)/python -m pytest -q -n $(JOBS) -m "long or slow"
	KSTACK_LONG=1 $(BIN)/python -m pytest -q -n $(JOBS) tests/policies/test_policies_conform.py
	$(BIN)/python -m tests.nightly mutation --jobs $(JOBS) > mutation.md
	$(BIN)/python -m tests.nightly exploring --jobs $(JOBS) > exploring.md
	$(BIN)/python -m tests.nightly seeded --jobs $(JOBS) > seeded.md
	$(BIN)/python -m tests.nightly decisions --write --jobs $(JOBS) > decisions.md
	$(BIN)/python -m tests.nightly injected --jobs $(JOBS) --report injected.html > injected.md
	$(BIN)/python -m tests.nightly alarms --jobs $(JOBS) > alarms.md
	$(BIN)/python -m tests.nightly hostile --jobs $(JOBS) > hostile.md
	$(BIN)/python -m tests.nightly transistency --jobs $(JOBS) > transistency.md

fuzz: setup
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[fuzz]' || \
		echo "atheris cannot be installed: seeded mutation instead"
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(ARGS)

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup-system:
	@if [ "$$(id -u)" = 0 ]; then sudo=; elif sudo -n true 2>/dev/null; then sudo=sudo; \
		else echo "setup-system needs root or sudo: apt-get install $(SYSTEM_PACKAGES)"; exit 1; fi; \
	$$sudo apt-get update -q && DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -qy --no-install-recommends $(SYSTEM_PACKAGES)

clean:
	rm -rf $(VENV) bench/peers/installed build out dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
	find . -name .hypothesis -prune -exec rm -rf {} +
