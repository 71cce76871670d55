# Two commands for a newcomer: `make demo` and `make test`. Both make .venv when it is not there.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint format venv extras setup-webgpu benchmarks architectures generated clean

venv: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mlc needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

# Everything that an extra brings; tests that need one are skipped without it.
extras: venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,all]'

# A software Vulkan device for the webgpu provider; needs root on Debian.
setup-webgpu: venv
	sh .ci/setup-webgpu
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,webgpu]'

demo: venv
	$(BIN)/mlc compile --recipe sample_models/fashion_cnn/recipe.toml -o build/demo --force

# Files side by side; tests of one file stay in one process, and torch has one thread in each, since all share the cores.
test: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Ten times as many generated graphs through all passes as `make test` tries, other ones every day.
generated: venv
	MLC_GENERATED=2000 MLC_GENERATED_SEED=$$(date +%j)0000 $(BIN)/python -m pytest tests/test_generated_graphs.py

architectures: extras
	$(BIN)/python -m tests.architectures.matrix

benchmarks: venv
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.rewriting
	$(BIN)/python -m benchmarks.statistics
	$(BIN)/python -m benchmarks.int8
	$(BIN)/python -m benchmarks.quantization
	$(BIN)/python -m benchmarks.saturation
	$(BIN)/python -m benchmarks.install
	$(BIN)/python -m benchmarks.rewriting_backend
	$(BIN)/python -m benchmarks.quantizing_backend
	$(BIN)/python -m benchmarks.big_graph
	$(BIN)/python -m benchmarks.fusion
	$(BIN)/python -m benchmarks.kills
	$(BIN)/python -m benchmarks.large
	$(BIN)/python -m benchmarks.peers

clean:
	rm -rf build .venv .mypy_cache .pytest_cache .ruff_cache
