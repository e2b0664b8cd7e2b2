# make round   install everything, then run the main job on the embedded default
# make test    install everything, then run the tests
# make help    the other targets

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
GPU_PYTHON ?= python3
UV_VERSION := 0.13.9
INSTALL := $(BIN)/uv pip install --quiet --compile-bytecode --no-deps --python $(BIN)/python
# Every download must match its recorded hash.
VERIFIED := --require-hashes -r
GET_UV := $(BIN)/python -m pip install -qq --disable-pip-version-check $(VERIFIED) requirements/uv.txt
COMPILE := $(BIN)/uv pip compile --quiet --python-version 3.11 --no-annotate --no-header

.PHONY: help install round label sweep evaluate test test-fast check bench-dpo bench-sampling bench-scale bench-catalog bench-adapters bench-served bench-trust gpu-check check-3b fix lock clean
.DEFAULT_GOAL := help

help:
	@echo "make round      install, then run the main job (ARGS=\"section.key=value …\")"
	@echo "make install    install everything, and raypipe into .venv/bin"
	@echo "make label      install, then label the run's listings (ARGS=\"--plan\" for an estimate only)"
	@echo "make sweep      install, then run the paper's experiments at small sizes (within an hour)"
	@echo "make evaluate   install, then evaluate a policy (ARGS=\"evals.policy=sft …\")"
	@echo "make test       install, then run all tests"
	@echo "make test-fast  the tests that start neither Ray nor vLLM, on all cores"
	@echo "make check      ruff, format check, mypy --strict"
	@echo "make bench-dpo  the shared-prefix DPO step against TRL's: about six minutes (ARGS=\"--family qwen3-vl\")"
	@echo "make bench-sampling  chains/s against vLLM alone, ray.data.llm and no sharing"
	@echo "make bench-scale     a million listings through everything but the engine"
	@echo "make bench-catalog   labels of a hundred thousand to a hundred million listings"
	@echo "make bench-adapters  merged weights against a LoRA in the engine"
	@echo "make bench-served    the share of an adapter's effect that is served in bfloat16 (after make round)"
	@echo "make bench-trust     whether certificates keep their promise; what signals and early stops are worth"
	@echo "make gpu-check  the 3B's shape on a GPU: step, TRL, sampling; two calls under five minutes each"
	@echo "make check-3b   the 3B's shape on two cores and 24 GiB: one step, one listing of sampling"
	@echo "make fix        format and apply ruff's fixes"
	@echo "make lock       compile the pins in requirements/ again"
	@echo "make clean      remove the virtual environment"

.venv/.cpu: requirements/cpu.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 is needed"; exit 1; }
	@echo "installing (about a minute) …"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(GET_UV)
	@$(INSTALL) $(VERIFIED) requirements/cpu.txt
	@$(INSTALL) --no-build-isolation --editable .
	@touch $@

.venv/.dev: .venv/.cpu requirements/dev.txt
	@$(INSTALL) $(VERIFIED) requirements/dev.txt
	@touch $@

install: .venv/.cpu

round: .venv/.cpu
	@$(BIN)/python jobs/round.py $(ARGS)

label: .venv/.cpu
	@$(BIN)/python jobs/label.py $(ARGS)

# Small sizes for a sweep, and two arms at a time on two cores.
SWEEP ?= run.name=sweep catalog.embedded.num_pool=300 catalog.embedded.num_eval=760 \
	catalog.embedded.num_anchor=96
ABREAST := sweep.arms_at_once=2 cluster.num_cpus=8 cluster.num_train_workers=1 \
	sampling.environment.OMP_NUM_THREADS='"1"'

sweep: .venv/.cpu
	@$(BIN)/python jobs/sweep.py $(SWEEP) $(ABREAST) $(ARGS)

evaluate: .venv/.cpu
	@$(BIN)/python jobs/evaluate.py $(ARGS)

# Tests marked engine use all cores by themselves, one after the other.
test: test-fast
	@$(BIN)/python -m pytest -m engine tests/integration tests/faults $(ARGS)

test-fast: .venv/.dev
	@$(BIN)/python -m pytest -m "not engine" -n auto --dist loadfile $(ARGS)

check: .venv/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench-dpo: .venv/.cpu
	@$(BIN)/python benchmarks/dpo.py $(ARGS)

bench-sampling: .venv/.cpu
	@$(BIN)/python benchmarks/sampling.py $(ARGS)

bench-scale: .venv/.dev
	@$(BIN)/python benchmarks/scale.py $(ARGS)

bench-catalog: .venv/.dev
	@PYTHONPATH=. $(BIN)/python benchmarks/catalog.py $(ARGS)

bench-adapters: .venv/.cpu
	@$(BIN)/python benchmarks/adapters.py $(ARGS)

bench-served: .venv/.cpu
	@$(BIN)/python benchmarks/served_effect.py $(ARGS)

bench-trust: .venv/.cpu
	@$(BIN)/python benchmarks/trust.py $(ARGS)

# With the Python that requirements/gpu.txt is installed in.
gpu-check:
	@$(GPU_PYTHON) benchmarks/gpu.py 1 $(ARGS)
	@$(GPU_PYTHON) benchmarks/gpu.py 2 $(ARGS)

check-3b: .venv/.cpu
	@$(BIN)/python benchmarks/check_3b.py $(ARGS)

fix: .venv/.dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# Both targets are constrained by a common resolution, so that shared packages have one version.
lock:
	@test -x $(BIN)/uv || { $(PYTHON) -m venv .venv && $(GET_UV); }
	@$(COMPILE) pyproject.toml --extra cpu --extra gpu --group dev --output-file .venv/both.txt
	@$(COMPILE) pyproject.toml --generate-hashes --extra cpu --constraint .venv/both.txt --output-file requirements/cpu.txt
	@$(COMPILE) pyproject.toml --generate-hashes --extra gpu --constraint .venv/both.txt --output-file requirements/gpu.txt
	@$(COMPILE) --generate-hashes --group dev --constraint requirements/cpu.txt --output-file requirements/dev.txt
	@echo uv==$(UV_VERSION) | $(COMPILE) --generate-hashes --output-file requirements/uv.txt -

clean:
	rm -rf .venv
