# Everything a developer or a user runs. `make` alone explains itself.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0

.DEFAULT_GOAL := help
KERNEL_TESTS := tests/house/test_kernels.py tests/inference/test_item_index.py tests/inference/test_item_rows.py \
	tests/inference/test_compiled_encoder.py tests/models/test_compiled_walk.py tests/models/test_path_search.py
KERNELS := setup.py $(shell find src -name '*.[ch]')
.PHONY: help setup setup-dev kernels demo test test-slow test-all sanitize check format serve clean size

help: ## show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.user: $(BIN)/python pyproject.toml $(KERNELS)
	$(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet -e ".[train,serve]"
	@touch $@

$(VENV)/.dev: $(VENV)/.user pyproject.toml
	$(BIN)/pip install --quiet -e ".[dev]"
	@touch $@

setup: $(VENV)/.user ## make an environment that can train and serve

setup-dev: $(VENV)/.dev ## the same with everything the tests need

kernels: setup ## build the compiled kernels again and show the compiler's messages
	$(BIN)/pip install --verbose --no-deps -e .

demo: setup ## run the whole loop on real films and ratings
	$(BIN)/slipstream demo $(ARGS)

serve: setup ## serve the release that the demo made
	$(BIN)/slipstream serve $(ARGS)

test: setup-dev ## set up and run the default tests (at most 5 minutes on 2 cores)
	$(BIN)/pytest $(ARGS)

test-slow: setup-dev ## the long tests only
	$(BIN)/pytest -m slow $(ARGS)

SANITIZERS := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g
sanitize: setup-dev ## run the kernel tests under the address and undefined-behaviour sanitizers
	CFLAGS="$(SANITIZERS)" LDFLAGS="$(SANITIZERS)" $(BIN)/python setup.py --quiet build --force \
		--build-lib build/sanitized --build-temp build/sanitized-objects
	LD_PRELOAD="$$($${CC:-gcc} -print-file-name=libasan.so) $$($${CC:-gcc} -print-file-name=libubsan.so)" \
		ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc PYTHONPATH=build/sanitized \
		$(BIN)/pytest -p no:cacheprovider $(KERNEL_TESTS)

check: setup-dev ## style, types and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup-dev ## rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

size: ## the size of the base installation, without extras
	@rm -rf $(VENV)-base && $(PYTHON) -m venv $(VENV)-base && $(VENV)-base/bin/pip install --quiet .
	@$(VENV)-base/bin/python -c "import pathlib, sysconfig; root = pathlib.Path(sysconfig.get_paths()['purelib']); \
	size = lambda p: sum(f.stat().st_size for f in p.rglob('*') if f.is_file()); \
	rows = sorted(((size(p) / 1e6, p.name) for p in root.iterdir() if p.is_dir() and not p.name.startswith('pip')), reverse=True); \
	print(f'base installation: {sum(r[0] for r in rows):.0f} MB'); [print(f'  {mb:6.1f} MB  {name}') for mb, name in rows[:10]]"
	@rm -rf $(VENV)-base

clean: ## remove the environment and what the tools left
	find src -name '*.so' -delete
	rm -rf $(VENV) build src/*.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
