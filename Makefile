# make run: the whole chain on this machine.  make test: the proof.  make check: style, types, architecture.
# Everything happens in .venv. Without a GPU, PyTorch's CPU wheels save gigabytes:
#   make run PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
PIP_ARGS ?=
VLMEVALKIT ?= ms-vlmeval==0.0.20
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_ARGS)
PIP_OF_3 = .venv-3.$*/$(PIP:.venv/%=%)

VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' drift/__init__.py)
BASE_IMAGE ?= python:3.11-slim-bookworm
CPU_TORCH ?= --extra-index-url https://download.pytorch.org/whl/cpu
DOCKER_ARGS ?=
LOCKED := pipeline=cluster,s3 train=cluster,s3,train,liger
# torch and what it brings for CUDA: which of them depends on the index
OF_TORCH := torch torchvision triton cuda-bindings cuda-pathfinder cuda-toolkit $(addprefix nvidia-,cublas cuda-cupti \
  cuda-nvrtc cuda-runtime cudnn-cu13 cufft cufile curand cusolver cusparse cusparselt-cu13 nccl-cu13 nvjitlink \
  nvshmem-cu13 nvtx)
WITHOUT_TORCH := $(addprefix --no-emit-package ,$(OF_TORCH))
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
LABELLED = --build-arg COMMIT=$(shell git rev-parse HEAD) --build-arg PIP_ARGS="$(PIP_ARGS)" $(DOCKER_ARGS)

.PHONY: run test test-all test-pythons check site compile test-vlmeval test-services golden gate-tables invariance overhead gpu eval-throughput faults seeds images lock audit wheel clean

run: .venv/run  ## problems to a registered model, on the miniature world
	$(BIN)/drift run
	@command -v drift >/dev/null || echo "drift is $(BIN)/drift here; by its name after: . $(BIN)/activate"

test: .venv/dev  ## the proof but for the slowest whole chains; no root, no services; 6 minutes on two cores
	$(PYTEST) -m "not slow"

test-all: .venv/dev  ## the whole proof, which CI runs; about 40 minutes on two cores
	$(PYTEST)

test-pythons:  ## quick tests on Python 3.12 and 3.13, as far as they are on this machine
	.ci/pythons

test-vlmeval: .venv/dev .venv-vlmeval/ready  ## judging by VLMEvalKit, in an environment of its own
	$(BIN)/python -m pytest -n 2 tests/vlmeval

test-services: .venv/dev site  ## the chain in containers, on a team's MLflow, the report in a browser; needs Docker, `make images`, PostgreSQL, Chromium
	$(PYTEST) tests/services

check: .venv/dev  ## style, types, architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

site: .venv-docs/ready  ## the documentation as pages, into site/; strict, and none of them loads anything from elsewhere
	NO_MKDOCS_2_WARNING=true .venv-docs/bin/mkdocs build --quiet --clean

compile: .venv/run  ## the pipeline for a Kubeflow cluster
	$(BIN)/drift compile --out drift_sft.yaml

golden: .venv/dev  ## accept the pipeline as it compiles, the public names and flags, and the written tables; look at the diff
	DRIFT_UPDATE_GOLDEN=1 $(BIN)/python -m pytest tests/pipelines tests/unit/test_interface.py tests/unit/test_reference.py \
	  tests/unit/weights/test_families.py tests/unit/weights/test_sweep.py tests/unit/planning/test_sizing.py

gate-tables: .venv/dev  ## the simulated tables of docs/gate.md (many minutes)
	$(BIN)/python -m tests.unit.gate.test_gate_rates

invariance: .venv/dev  ## how far every backend's weights end up from one process's (about 90 seconds)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.invariance

overhead: .venv/dev  ## what the prior costs, beside the released code's hook
	$(BIN)/python -m benchmarks.prior_overhead

gpu: .venv/dev  ## what training and evaluation cost on this machine's GPU, in 8 minutes
	PYTHON=$(BIN)/python bash benchmarks/gpu.sh

eval-throughput: .venv/dev .venv-vlmeval/ready  ## local inference of an evaluation, beside VLMEvalKit's
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.eval_throughput

faults: .venv/dev  ## every command under every fault, into docs/reliability.md; SMALL=1: cheap ones, once, and only printed
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults $(if $(SMALL),--small,--write)

seeds: .venv/run  ## the README's table: the miniature world on fresh seeds (about an hour)
	$(BIN)/python benchmarks/miniature_seeds.py

.venv/run: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import ensurepip' || { echo "python3 lacks venv: apt-get install python3-venv"; exit 2; }
	@echo "PyTorch and all that drift needs go into .venv: some minutes, without a word"
	$(PYTHON) -m venv .venv
	$(PIP) torch==2.13.0
	$(PIP) --no-deps torchvision==0.28.0
	$(PIP) --config-settings editable_mode=compat -e '.[cluster]'
	@touch $@

.venv/dev: .venv/run
	$(PIP) --config-settings editable_mode=compat -e '.[cluster,train,dev]'
	@touch $@

.venv-3.%/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-3.$*
	$(PIP_OF_3) torch==2.13.0
	$(PIP_OF_3) --no-deps torchvision==0.28.0
	$(PIP_OF_3) -e '.[cluster]' hypothesis jsonschema pytest
	@touch $@

# The extra `docs` alone: a site needs none of what drift needs
.venv-docs/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_ARGS) \
	  $$($(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"])')
	@touch $@

# VLMEvalKit needs other versions than drift, and its import what it never uses here: a closed set, without dependencies
.venv-vlmeval/ready: docker/eval/requirements.txt
	$(PYTHON) -m venv .venv-vlmeval
	.venv-vlmeval/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) torch==2.13.0
	.venv-vlmeval/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) --no-deps -r $<
	.venv-vlmeval/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) --no-deps --use-pep517 \
	  "$(VLMEVALKIT)"
	@touch $@

images:  ## the three images of the steps; BASE_IMAGE=... for another base, CPU_TORCH= for the index's own torch
	docker image inspect $(BASE_IMAGE) >/dev/null 2>&1 || docker pull $(BASE_IMAGE)
	base=$$(docker image inspect --format '{{with .RepoDigests}}{{index . 0}}{{else}}$(BASE_IMAGE){{end}}' $(BASE_IMAGE)) && \
	docker build -f docker/Dockerfile -t drift-pipeline-python:$(VERSION) --build-arg BASE_IMAGE=$$base \
	  --build-arg TORCH_ARGS="$(CPU_TORCH)" $(LABELLED) . && \
	docker build -f docker/Dockerfile -t drift-train-python:$(VERSION) --build-arg BASE_IMAGE=$$base \
	  --build-arg REQUIREMENTS=train $(LABELLED) .
	docker build -f docker/eval/Dockerfile -t drift-evaluate-python:$(VERSION) \
	  --build-arg TRAIN_IMAGE=drift-train-python:$(VERSION) --build-arg VLMEVALKIT="$(VLMEVALKIT)" $(LABELLED) .

lock: .venv/dev  ## what the images install, by hash, within constraints.txt
	$(PIP) uv==0.13.9
	for image in $(LOCKED); do $(BIN)/uv pip compile --quiet pyproject.toml -c constraints.txt --generate-hashes \
	  --python-version 3.11 --python-platform x86_64-manylinux_2_28 $(WITHOUT_TORCH) \
	  --custom-compile-command "make lock" $$(echo $${image#*=} | sed 's/[^,]*/--extra &/g; s/,/ /g') \
	  -o docker/requirements/$${image%%=*}.txt; done

audit: .venv/dev  ## known vulnerabilities of what the images install; asks PyPI
	$(PIP) pip-audit==2.10.1
	for file in docker/requirements/*.txt; do $(BIN)/pip-audit --strict --disable-pip -r $$file || exit 1; done

wheel: .venv/dev  ## dist/: the wheel, and the bill of materials of what it asks for here
	rm -rf dist build
	$(PIP) cyclonedx-bom==7.5.0 && $(BIN)/python -m pip wheel --quiet --no-deps -w dist .
	$(BIN)/cyclonedx-py environment --output-file dist/sbom.cdx.json $(BIN)/python

clean:
	rm -rf runs build dist site *.egg-info
