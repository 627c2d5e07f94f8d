# make train, make test: each sets everything up first, in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: setup train test faults ray-versions check bench docs format clean

setup: $(READY)

$(READY): pyproject.toml setup.sh
	PYTHON="$(PYTHON)" VENV="$(VENV)" bash setup.sh
	touch $(READY)

train: $(READY)
	$(BIN)/python -m dynat_ray.train

# Three processes, since two leave a quarter of two cores idle: tests wait for processes to start.
# The one that gets tests/distributed starts Ray. Hundreds of processes import the package: with its
# bytecode kept, whatever the environment says, not each of them compiles it.
test: $(READY)
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 3 --durations=10

# What `make test` leaves out: real clusters that lose workers, nodes and drivers, and commands that
# are killed at so many random moments.
MOMENTS ?= 30
faults: $(READY)
	MOMENTS=$(MOMENTS) $(BIN)/python -m pytest -m faults -s

# The tests that touch Ray, under the lowest and the newest Ray that pyproject.toml allows.
ray-versions: $(READY)
	$(BIN)/python -m tests.ray_versions $(VERSIONS)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python -m dynat_ray.benchmark all

# The site, from docs/ and docstrings, in build/site; a link that leads nowhere is an error.
docs: $(READY)
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV)
