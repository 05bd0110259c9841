# make demo and make test set everything up by themselves; `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Each of the many processes of a workflow would compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE
# One line a finished job instead of Snakemake's five.
COMPACT := sed -un -e '/^Finished jobid/ {s/.*Rule: \(.*\))/\1/; h; d;}' \
	-e '/^[0-9]* of [0-9]* steps/ {s/ steps (\(.*\)) done/ (\1)/; G; s/\n/  /; p; d;}' \
	-e '/^\(Select jobs\|Execute [0-9]\|Using \|Assuming \|Building \|Conda \|\[\|$$\)/ d' -e p

.PHONY: help setup tools demo test lint format bench bench-gpu mirror commit remote push pull status why diff slurm-lab slurm-lab-stop experiment evidence lock clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.installed ## create .venv from requirements.lock, compile the kernels

$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed; name it with PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pipeline.compile_kernels
	test ! -e .git || git config merge.dvc-lock.driver '$(BIN)/python -m pipeline.workflow.merge_lock %O %A %B'
	touch $@

demo: setup ## run the default experiment and show its most telling lines
	@echo "snakemake: each line is a finished job; their output is under logs/"
	@snakemake --quiet host rules 2>&1 | $(COMPACT)
	@python -m pipeline.report --headlines results/$$(python -m pipeline.config --name)

test: setup ## run the whole test suite
	python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

lint: setup ## ruff, mypy, snakefmt, snakemake --lint
	ruff check .
	ruff format --check .
	mypy
	snakefmt --check Snakefile
	snakemake --lint

format: setup ## put the code into its format
	ruff check --fix --quiet . || true
	ruff format .
	snakefmt Snakefile

bench: setup ## measure us beside the alternatives; tables under benchmarks/results
	python -m benchmarks

bench-gpu: setup ## the same on a GPU
	python -m benchmarks --device cuda

mirror: setup ## make mirror TO=folder: pack what has been fetched as a KRONFLOW_MIRROR for a machine without network
	python -m pipeline.mirror $(or $(TO),mirror)

# Any environment that has the tools will do: .venv, or the one that is activated, however old.
tools:
	@python -c 'import dvc, snakemake, pipeline' 2> /dev/null || $(MAKE) --no-print-directory setup

commit: tools ## record with DVC what snakemake has made, without running it again
	@python -m pipeline.workflow.share commit

remote: tools ## make remote URL=s3://bucket/path NAME=shared: where results go to; DVC checks what it fetches from there
	@test -n "$(URL)" || { echo "error: name the address: make remote URL=s3://bucket/path, or a folder" >&2; exit 2; }
	@dvc remote add --quiet --force --default $(or $(NAME),shared) $(URL)
	@dvc remote modify --quiet $(or $(NAME),shared) verify true
	@echo "remote '$(or $(NAME),shared)' is in .dvc/config; 'git commit' it"

push: tools ## send what DVC has recorded to the remote
	@python -m pipeline.workflow.share push

pull: tools ## fetch what this commit records from the remote, and check it
	@python -m pipeline.workflow.share pull

status: tools ## what differs between here, the record and the remote, and whose turn it is
	@python -m pipeline.workflow.share status

why: tools ## make why TARGET=..: what changed that makes snakemake run it again, from what to what
	@python -m pipeline.workflow.why $(TARGET)

diff: tools ## make diff REV=HEAD~1: metrics of that revision beside those here; LOCK=evidence/dvc.lock: bits of the models
	@python -m pipeline.workflow.diff $(if $(LOCK),--lock $(LOCK),$(or $(REV),HEAD))

slurm-lab: tools ## two virtual Slurm nodes on this machine; make slurm-lab-stop ends them
	python -m tests.slurm_lab start build/slurm-lab

slurm-lab-stop: tools
	python -m tests.slurm_lab stop build/slurm-lab

experiment: tools ## make experiment NAME=paper: point params.yaml and dvc.yaml at another experiment
	python -m pipeline.config --use $(NAME)

# What a reader without the runs wants of results/paper-small: numbers and main figures.
SHOWN = size-error-equal-* size-error-with-orders-* error-epochs-email* accuracy-sparsity-* cost-* step-network-size* \
  error-values-email* singular-values-email* scaling* query-times* ablation* sequence-models* training-time* \
  synthetic-fitness* epoch-width* epoch-parts* gamma*
evidence: tools ## write RESULTS.md and evidence/ from results/paper-small, which 'snakemake paper-small' made
	rm -rf evidence && mkdir -p evidence/tables evidence/figures
	cp results/paper-small/summary.json results/paper-small/headlines.txt evidence
	cp results/paper-small/tables/*.csv evidence/tables
	cp $(SHOWN:%=results/paper-small/figures/%.svg) evidence/figures
	test ! -e dvc.lock || python -m pipeline.workflow.bits --experiment paper-small evidence/dvc.lock || echo "evidence/ goes without a dvc.lock"
	python -m pipeline.report --experiment paper-small --results RESULTS.md $$(test ! -e evidence/dvc.lock || echo --lock evidence/dvc.lock)

lock: ## resolve pyproject.toml anew and write requirements.lock
	$(PYTHON) -m venv --clear build/lock
	build/lock/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	build/lock/bin/python -m pip freeze --exclude-editable --exclude kronflow > requirements.lock

clean: ## remove results, logs and caches; raw data stay
	rm -rf results logs data/tensors data/samples .cache .pytest_cache .mypy_cache .ruff_cache build
