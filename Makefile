# Everything is installed into .venv; nothing outside this folder changes. `make` alone lists the targets.
#
#   PYTHON=python3.12          the interpreter (3.10 or later) that .venv is made from
#   TORCH_INDEX=URL            take torch from this index instead of pip's own, for instance its CPU or ROCm builds
#   ARGS="--video street.mp4"  passed on to ditta demo, pytest
#   FAULTS=1                   make soak: ten minutes in which everything around the node fails
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
ARGS ?=
FAULTS ?=

# A sourced ROS is used as it is, with the numpy it was compiled against. Without one, ROS 2 comes as wheels (Jazzy).
ifdef ROS_DISTRO
EXTRAS := demo,evaluate,onnx,openvino,ray,test
CONSTRAINTS := $(VENV)/constraints.txt
else
EXTRAS := ros,demo,evaluate,onnx,openvino,ray,test
CONSTRAINTS := constraints.txt
endif

.PHONY: help demo test test-all lint bench soak study study-scenes study-sizes study-domain sam2 clean

help: ## list the targets
	@sed -nE 's/^([a-z0-9-]+):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(VENV)/installed ## DiTTA on a real street video over real ROS 2; report in runs/demo
	$(VENV)/bin/ditta demo $(ARGS)

# The profile draws the same examples on every machine and gives slow ones time. Most tests of the node wait for another
# process, so that two run beside each other; whoever is done takes over some of the other's.
TESTS := $(RUN) -m pytest --hypothesis-profile=ci --numprocesses 2 --dist worksteal

test: $(VENV)/installed ## the tests that take at most ten seconds each; seven minutes on two cores
	$(TESTS) -m 'not slow' $(ARGS)

test-all: $(VENV)/installed ## all tests
	$(TESTS) $(ARGS)

lint: $(VENV)/installed ## ruff and mypy
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

bench: $(VENV)/installed ## benchmarks against their goals, into benchmarks/results/bench.json and docs/benchmarks.md
	$(RUN) -m pytest benchmarks --results benchmarks/results/bench.json $(ARGS); \
		status=$$?; $(RUN) benchmarks/goals.py && exit $$status

study: $(VENV)/installed ## DiTTA, its parts and its rivals on labelled video, into benchmarks/results/study.md (hours)
	$(RUN) benchmarks/study.py $(ARGS)

study-scenes: $(VENV)/installed ## does it pay in other scenes? Into benchmarks/results/scene_study.md (hours; ARGS="--count 30")
	$(RUN) benchmarks/scene_study.py $(ARGS)

study-sizes: $(VENV)/installed ## is the size that is found a good one? Into benchmarks/results/size_study.md (half an hour)
	$(RUN) benchmarks/size_study.py $(ARGS)

study-domain: $(VENV)/installed ## what is labelled source data worth? Into benchmarks/results/source_study.md (ARGS="--quick": four minutes)
	$(RUN) benchmarks/source_study.py $(ARGS)

soak: $(VENV)/installed ## the running node for twenty minutes, into benchmarks/results/soak_20min.json and docs/benchmarks.md
ifneq ($(FAULTS),)
	$(RUN) benchmarks/soak_faults.py --out benchmarks/results/soak_faults.json $(ARGS)
else
	$(RUN) benchmarks/soak_node.py --size 480x360 --rate 15 --seconds 1200 --settle 60 --growth 20 --adapt-every 120 \
		--out benchmarks/results/soak_20min.json $(ARGS)
endif
	$(RUN) benchmarks/goals.py

# sam2 without what it names: its torchvision needs CUDA, and breaks transformers beside a CPU build of torch.
sam2: $(VENV)/installed ## SAM 2 and Hugging Face models into .venv
	$(RUN) -m pip install --constraint $(CONSTRAINTS) --editable '.[$(EXTRAS),huggingface]' hydra-core iopath setuptools
	SAM2_BUILD_CUDA=0 $(RUN) -m pip install --constraint $(CONSTRAINTS) --no-deps --no-build-isolation sam2

clean: ## back to the bare checkout, results in runs/ kept
	rm -rf $(VENV) build install log *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Editable, so that every target runs the code of this checkout and a second run installs nothing. torch first and alone,
# so that TORCH_INDEX decides about it and about nothing else.
$(VENV)/installed: setup.py constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.version_info >= (3, 10) or sys.exit(f"expected Python 3.10 or later, but got {v}: choose another one with make PYTHON=...")'
ifdef ROS_DISTRO
	@$(PYTHON) -c 'import rclpy, numpy' || { echo "ROS $(ROS_DISTRO) is sourced, but $(PYTHON) cannot import rclpy and numpy: choose its Python with make PYTHON=/usr/bin/python3, or use a shell without ROS"; false; }
	$(PYTHON) -m venv --system-site-packages $(VENV)
	grep -vE '^(numpy|opencv)' constraints.txt > $(CONSTRAINTS)
	$(PYTHON) -c 'import numpy; print(f"numpy=={numpy.__version__}")' >> $(CONSTRAINTS)
else
	$(PYTHON) -m venv $(VENV)
endif
	$(RUN) -m pip install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) --constraint $(CONSTRAINTS) torch
	$(RUN) -m pip install --constraint $(CONSTRAINTS) --editable '.[$(EXTRAS)]'
	touch $@
