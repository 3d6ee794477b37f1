# Every habit of this project is one word. `make` alone says which.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
TRACE  ?= ../shared/data/traces/AzureLLMInferenceTrace_conv.csv
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM = false

.PHONY: help install demo test test-fault check fix bench bench-balance bench-papers soak clean

help:
	@echo "make install     the environment, in .venv"
	@echo "make demo        everything on this machine: prompts, head starts, answers"
	@echo "make test        the test suite"
	@echo "make test-fault  the long fault run"
	@echo "make soak        half an hour of load with few faults: what grows is printed"
	@echo "make check       formatting, lint, types, import contracts, file sizes; writes nothing"
	@echo "make fix         what can be mended by itself"
	@echo "make bench       the benchmarks; rows go to benchmarks/results/"
	@echo "make bench-balance  real unequal workers, every policy (docs/balance.md); TRACE=AzureLLMInferenceTrace_conv.csv, as root"
	@echo "make bench-papers  the papers' comparisons, simulated: TRACE=the Azure conversation trace (CSV); hours on two cores"
	@echo "make clean       the environment and every cache"

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	# torch first and by its exact version: one build for everybody, and none of CUDA's gigabytes where the index offers a CPU build
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	# quicker on a CPU where a C++ compiler is; says so and goes on where none is
	$(BIN)/python -m workers.native
	@touch $(STAMP)

install: $(STAMP)

demo: $(STAMP)
	$(BIN)/headstart demo

test: $(STAMP)
	$(BIN)/python -m pytest

test-fault: $(STAMP)
	$(BIN)/python -m pytest tests/fault
	$(BIN)/python -m scheduler.simulation --seeds 2000 12000
	$(BIN)/python -m scheduler.simulation.mutations
	$(BIN)/python -m tests.machine --seconds 300 --every 5
	$(BIN)/python -m tests.machine --seconds 60 --every 6 --default-mode
	$(BIN)/python -m tests.machine --seconds 90 --every 9 --clients 6 --model examples/demo_model/weights

soak: $(STAMP)
	$(BIN)/python -m tests.machine --seconds 1800 --every 60 --clients 8 --need-kills 15

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/ratchet.py

fix: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/python -m benchmarks.kv_transfer
	$(BIN)/python -m benchmarks.engine_pace
	$(BIN)/python -m benchmarks.scheduler_decision
	$(BIN)/python -m benchmarks.prefix_cache
	$(BIN)/python -m benchmarks.fabric_cost
	$(BIN)/python -m benchmarks.sse_streams

bench-balance: $(STAMP)
	$(BIN)/python -m benchmarks.balance --trace $(TRACE) $(OPTIONS)

TRACE ?= AzureLLMInferenceTrace_conv.csv
REQUESTS ?= 1000

bench-papers: $(STAMP)
	$(BIN)/python -m benchmarks.papers --trace $(TRACE) --requests $(REQUESTS) --kept benchmarks/results/papers-runs.jsonl --out benchmarks/results/papers
	$(BIN)/python -m benchmarks.unequal_instances --trace $(TRACE) --kept benchmarks/results/unequal-runs.jsonl
	$(BIN)/python -m benchmarks.many_workers --trace $(TRACE) --kept benchmarks/results/many-runs.jsonl --out benchmarks/results/papers

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
