# Two commands do everything: `make demo` and `make test`. Both create .venv and install first.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# One thread a process: two runs side by side beat one run on two threads.
export OMP_NUM_THREADS ?= 1
# DeepSpeed comes as source; it would compile what is never used.
export DS_BUILD_OPS ?= 0
# The versions that were seen together; pyproject.toml has the ranges that are allowed.
INSTALL := $(BIN)/pip install --quiet --constraint constraints.txt

.PHONY: demo test test-integration test-slurm test-long test-gpu bench-gpu checks format clean

$(VENV)/.installed: pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than Python 3.11; run make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo "error: $(PYTHON) has no venv module; install python3-venv or give PYTHON=" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  echo "note: $(PYTHON) is not Python 3.11, the one that this was tested with" >&2
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(INSTALL) torch
	$(INSTALL) --editable ".[dev]"
	@touch $@

# The extra for making simulated data and rolling policies out (MuJoCo, robosuite).
$(VENV)/.installed-sim: $(VENV)/.installed
	$(INSTALL) --editable ".[sim,dev]"
	@touch $@

demo: $(VENV)/.installed
	@$(BIN)/scaling plan sweeps.demo
	@$(BIN)/scaling submit sweeps.demo --parallel 2
	@$(BIN)/scaling best sweeps.demo
	@$(BIN)/scaling finetune --from best:sweeps.demo --domain sim_xarm7
	@$(BIN)/scaling report sweeps.demo --n-column num_params_policy

test: $(VENV)/.installed
	$(BIN)/pytest -m "not integration and not long and not slurm" tests/unit

test-integration: $(VENV)/.installed
	$(BIN)/pytest -m "not long and not slurm" tests/integration

# The tests start and stop a private two-node Slurm; Debian's packages are installed the first time.
test-slurm: $(VENV)/.installed
	@if [ "$$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then \
	  echo "test-slurm: SKIPPED, an emulated Slurm needs root and apt"; \
	elif ! bash jobs/slurm/dev_cluster.sh install; then \
	  echo "test-slurm: SKIPPED, Slurm's packages cannot be installed here"; \
	else \
	  $(BIN)/pytest -m "slurm and not long" tests/slurm; \
	fi

test-long: $(VENV)/.installed-sim
	$(BIN)/pytest -m long tests

checks: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tests/no_clocks.py

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Explicit, so that a machine with a GPU needs no environment of ours: docs/gpu.md.
#     make test-gpu bench-gpu PYTHON=python3 VENV=        DRY=1: tiny sizes on a CPU
GPU_PYTHON = PYTHONPATH=$(CURDIR) $(if $(VENV),$(BIN)/python,$(PYTHON))
export DRY OUT
test-gpu: $(if $(VENV),$(VENV)/.installed)
	$(GPU_PYTHON) -m pytest -m gpu tests/gpu

bench-gpu: $(if $(VENV),$(VENV)/.installed)
	$(GPU_PYTHON) tests/bench/gpu.py

bench-%: $(VENV)/.installed
	@test -f tests/bench/$*.py || { echo "error: no benchmark '$*' in tests/bench" >&2; exit 2; }
	$(BIN)/python tests/bench/$*.py

# Results only; runs are yours to delete.
clean:
	rm -rf exports reports
