# `make demo` and `make test` do all set-up themselves; what is already set up costs seconds.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do command -v $$p && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: demo test lint types size docs wheel oldest matrix clean

# torch goes first and pinned: a later resolver must find it in place rather than choose another build.
.venv/.core: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) $$(grep '^torch==' constraints.txt)
	$(PIP) --editable .
	touch $@

.venv/.dev: .venv/.core requirements-dev.txt
	$(PIP) --requirement requirements-dev.txt
	$(PIP) --no-deps --requirement requirements-oracles.txt
	touch $@

demo: .venv/.core
	mkdir -p out
	$(BIN)/etastar measure --plot out/demo.png --json out/demo.json

# One thread for each of two workers: PyTorch's threads of two processes would wait for each other.
# A worker takes whole files, so that what several tests share is made once; slow tests come first.
WORKERS ?= 2
test: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0

lint: .venv/.dev
	$(BIN)/ruff check src tests benchmarks docs/site examples studies .ci
	$(BIN)/ruff format --check src tests benchmarks docs/site examples studies .ci

types: .venv/.dev
	$(BIN)/mypy

size:
	@$(PYTHON) .ci/size.py

# Without the images of pages: those are committed, and `docs/site/make_images.py` draws them anew.
.venv/.docs: .venv/.core requirements-docs.txt
	$(PIP) --requirement requirements-docs.txt
	touch $@

docs: .venv/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "out/site/index.html"

# The built wheel, tried in an empty environment from outside of the repository.
wheel: .venv/.core
	$(BIN)/python .ci/wheel.py

# The same with the oldest dependencies that pyproject.toml allows: before a release, two to four minutes.
oldest: .venv/.dev
	$(BIN)/python .ci/oldest.py

# the promise of the recommended rate over kinds of model, step and data; kinds that are there are kept
matrix: .venv/.core
	$(BIN)/python benchmarks/matrix.py --workers 2 --json benchmarks/results/matrix.json

clean:
	rm -rf .venv out build dist
