# Two commands do all the set-up: `make quickstart` and `make test`. The first call makes .venv; later ones are quick.
PYTHON ?= python3
VENV ?= .venv
OUT ?= runs/quickstart
ARGS ?=
NO_TESTS := [ $$? -eq 5 ]  # with ARGS=tests/..., one of the two may find none

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TEST_STAMP := $(VENV)/.installed-for-tests
APT_PACKAGES := libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri

.PHONY: help quickstart test lint install clean

help:
	@echo "make quickstart   record, train and evaluate in the embedded simulator; report in $(OUT)/report.html"
	@echo "make test         all tests but those that need a GPU or a robot"
	@echo "make lint         formatting, import directions, types"
	@echo "make install      the virtual environment alone ($(VENV))"

quickstart: install
	$(BIN)/rdt quickstart --out $(OUT) $(ARGS)

test: install $(TEST_STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not gpu and not hardware and not real_time" $(ARGS) || $(NO_TESTS)
	$(BIN)/python -m pytest -m "real_time and not gpu and not hardware" $(ARGS) || $(NO_TESTS)

lint: install
	$(BIN)/ruff format --check . && $(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

install: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2])' || \
		{ echo "Python 3.10 or newer is needed (3.11 and 3.12 are tested): make PYTHON=python3.12"; exit 1; }
	@if command -v apt-get >/dev/null && ! dpkg -s $(APT_PACKAGES) >/dev/null 2>&1; then \
		if [ "$$(id -u)" = 0 ]; then \
			apt-get update -qq && apt-get install -y -qq --no-install-recommends $(APT_PACKAGES) >/dev/null || \
				echo "could not install $(APT_PACKAGES): pictures will come from the slower ray caster"; \
		else \
			echo "for fast pictures: sudo apt-get install $(APT_PACKAGES) (else the ray caster is used)"; \
		fi; \
	fi
	$(PYTHON) -m venv $(VENV) || { echo "python3-venv is missing: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[sim,encoders,ros2,dev]'
	@touch $@

# what only tests need of the extras: 480 MB that a quick start can do without
$(TEST_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[rl]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
