# make help lists the targets. The first run of any of them installs what it needs into .venv.

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
MODEL ?= default
SHELL := /bin/bash
PY := $(VENV)/bin/python
# Training alone on the machine is faster with spinning threads.
TRAIN_PY := env -u OMP_WAIT_POLICY $(PY)

# Nodes of two runs on one network must not hear each other, and nothing leaves this machine.
ifndef ROS_DOMAIN_ID
ROS_DOMAIN_ID := $(shell shuf -i 1-101 -n 1)
endif
ifeq ($(ROS_DISTRO),humble)
export ROS_LOCALHOST_ONLY ?= 1
else
export ROS_AUTOMATIC_DISCOVERY_RANGE ?= LOCALHOST
endif
# Idle OpenMP threads that spin take the cores which DDS and the replay need.
export OMP_WAIT_POLICY ?= PASSIVE
export ROS_DOMAIN_ID PYTHON VENV TORCH_INDEX

# Said before anything is installed.
ifneq ($(filter evaluate,$(MAKECMDGOALS)),)
ifeq ($(and $(DATA),$(OUT)),)
$(error DATA or OUT is missing: make evaluate DATA=folder MODEL=default OUT=folder)
endif
endif

.DEFAULT_GOAL := help
.PHONY: help demo segment live test test-all test-rest test-exhaustive check check-packages conventions evaluate fuzz lint format train fine-tune recipe study \
	inspect-networks check-export check-launch colcon lock latest clean distclean benchmark benchmark-metrics gpu-run

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "Variables: PYTHON=python3.12  VENV=folder  TORCH_INDEX=https://download.pytorch.org/whl/cpu"

# vision_msgs: a fraction of a second where it is there.
MESSAGES := @tools/build_messages.sh

demo: $(VENV)/.runtime ## Replay a clip through the node, evaluate it, write out/demo/ [DATA=folder]
	$(MESSAGES)
	@$(PY) -m anomaly_seg_ros.cli.demo \
		--out "$(or $(OUT),out/demo)" $(if $(DATA),--data "$(DATA)")

segment: $(VENV)/.runtime ## Pictures, a video or a camera as overlays, masks, scores, objects and a film [IN=... OUT=folder MODEL=default ARGS=...]
	@$(PY) -m anomaly_seg_ros.cli.segment $(if $(IN),"$(IN)") \
		--out "$(or $(OUT),out/segment)" --model "$(MODEL)" $(ARGS)

live: $(VENV)/.live ## The node on a bag, a video, pictures or a camera, in the browser [IN=... MODEL=default ARGS="--port 9870"]
	$(MESSAGES)
	@$(PY) -m anomaly_seg_ros.cli.live $(if $(IN),"$(IN)") --model "$(MODEL)" $(ARGS)

# Processes that share the tests; each takes up to 3 GB of memory.
JOBS ?= 2
FAST := -n $(JOBS) --dist loadfile -m "not slow and not thorough and not exhaustive"
REST := -n $(JOBS) --dist loadfile -m "(slow or thorough) and not exhaustive"

test: $(VENV)/.dev ## Run the tests that every change needs, in minutes [TESTS="test/metrics -k ap"]
	$(MESSAGES)
	@$(PY) -m pytest $(or $(TESTS),$(FAST))

test-rest: $(VENV)/.dev ## Run the tests that `make test` leaves out, but for those of test-exhaustive
	$(MESSAGES)
	@$(PY) -m pytest $(REST)

check-packages: $(VENV)/.dev ## Start the node without each package in turn
	@$(PY) -m pytest -n $(JOBS) --dist load -m exhaustive test/ros/test_missing_packages.py

test-exhaustive: $(VENV)/.dev ## Run check-packages, and what asks at length what other tests ask
	$(MESSAGES)
	@$(PY) -m pytest -n $(JOBS) --dist load -m exhaustive

test-all: test test-rest test-exhaustive ## Run every test

evaluate: $(VENV)/.runtime ## Evaluate DATA=folder (images/, labels/) with MODEL=default into OUT=folder
	@$(PY) -m anomaly_seg_ros.cli.evaluate_folder \
		--data "$(DATA)" --model "$(MODEL)" --out "$(OUT)"

fuzz: $(VENV)/.dev ## Attack everything that reads files and messages [ARGS="decoder --seconds 600"]
	@$(PY) -m tools.fuzz $(ARGS)

# Folders of tests that take seconds.
CORE := test/test_*.py test/io test/system test/metrics test/models test/checkpoints test/training/losses

check: lint $(VENV)/.dev ## Run what every commit needs, in under two minutes: lint and the core's tests
	@$(PY) -m pytest $(FAST) --deselect test/test_golden.py $(CORE)

lint: $(VENV)/.dev ## Check style, formatting, who imports whom, and types
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(VENV)/bin/lint-imports --no-cache --no-logo
	@$(PY) -m mypy

conventions: ## Run ROS 2's own linters: ament_copyright, flake8, pep257, xmllint (from apt)
	@tools/check_conventions.sh

format: $(VENV)/.dev ## Put the code into the project's format
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

train: RUN_DIR = runs/closed_set
train: $(VENV)/.dev ## Train a closed-set model, or resume it, in RUN_DIR=folder [START=model CONFIG=file DATA=folder ARGS=...]
	@$(TRAIN_PY) -m training.closed_set --run-dir "$(RUN_DIR)" $(if $(CONFIG),--config "$(CONFIG)") \
		$(if $(START),--start "$(START)") $(if $(DATA),--data "$(DATA)") $(ARGS)

fine-tune: RUN_DIR = runs/fine_tune
fine-tune: $(VENV)/.dev ## Fine-tune MODEL=name with outliers in RUN_DIR=folder [CONFIG=file DATA=folder ARGS=...]
	@$(TRAIN_PY) -m training.fine_tune --run-dir "$(RUN_DIR)" $(if $(CONFIG),--config "$(CONFIG)") \
		$(if $(filter-out file,$(origin MODEL)),--model "$(MODEL)") $(if $(DATA),--data "$(DATA)") $(ARGS)

# WSL's environment has a NAME: only one given to make counts.
recipe: $(VENV)/.dev ## Train and evaluate NAME=recipe, beside its published figures; lists them without NAME [DATA=folder OUT=folder ARGS="--steps 2"]
	@$(TRAIN_PY) -m training.recipe $(if $(findstring command,$(origin NAME)),"$(NAME)",--list) $(if $(DATA),--data "$(DATA)") \
		$(if $(OUT),--out "$(OUT)") $(ARGS)

study: $(VENV)/.dev ## Write docs/results.md from docs/results.json [RUN_DIR=folder runs and collects what is missing; DATA=folder ARGS=...]
ifdef RUN_DIR
	@$(TRAIN_PY) -m training.study --out "$(RUN_DIR)" $(if $(DATA),--data "$(DATA)") $(ARGS)
	@$(TRAIN_PY) -m training.study --out "$(RUN_DIR)" --collect $(if $(DATA),--data "$(DATA)") $(ARGS)
endif
	@$(TRAIN_PY) -m training.study --tables $(ARGS)

benchmark: $(VENV)/.dev ## Time the node beside the bare network and a naive node [ARGS="--compare OLD.json"]
	@$(PY) -m benchmarks.online $(ARGS)

benchmark-metrics: $(VENV)/.dev ## Time exact AP, AUROC and FPR95 beside scikit-learn [ARGS="--frames 1 5"]
	@$(PY) -m benchmarks.metrics $(ARGS)

gpu-run: $(VENV)/.dev ## CUDA tests, benchmark and a training in ten minutes, kept in OUT=folder [DATA=folder ARGS="--device cpu --seconds 60"]
	@$(PY) -m tools.gpu_run --out "$(or $(OUT),out/gpu)" $(if $(DATA),--data "$(DATA)") $(ARGS)

inspect-networks: $(VENV)/.runtime ## Size, GFLOPs and ms of every network [ARGS="--no-time"]
	@$(TRAIN_PY) -m benchmarks.inspect_networks $(ARGS)

check-export: $(VENV)/.dev ## Every network through torch.compile, torch.export, ONNX [ARGS="--only erfnet"]
	@$(PY) -m benchmarks.export_check $(ARGS)

colcon: $(VENV)/.runtime ## Build as a ROS package and run an executable of it
	@tools/check_colcon.sh

check-launch: colcon $(VENV)/.dev ## Test the launch file with checkouts of ros2/launch and ros2/launch_ros [LAUNCH=folder LAUNCH_ROS=folder]
	@tools/check_launch.sh "$(LAUNCH)" "$(LAUNCH_ROS)"

lock: $(VENV)/.dev ## Renew requirements/locked/ from requirements/*.txt [ARGS=--upgrade]
	@UV="$(abspath $(VENV))/bin/uv" tools/lock.sh $(ARGS)

latest: ## Run the tests with the newest versions that requirements/*.txt allow, in .venv-latest
	@VENV=.venv-latest tools/set_up.sh latest
	@.venv-latest/bin/python -m pytest $(or $(TESTS),$(FAST))

clean: ## Remove builds, caches and outputs; keep the virtual environments
	rm -rf build install log out .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean ## Remove the virtual environments, too
	rm -rf $(VENV) .venv-colcon .venv-latest

$(VENV)/.runtime: $(wildcard requirements/locked/*runtime.txt)
	@tools/set_up.sh runtime
	@touch $@

# Each holds the runtime as well, at the same versions.
$(VENV)/.live: $(wildcard requirements/locked/live.txt)
	@tools/set_up.sh live
	@touch $(VENV)/.runtime $@

$(VENV)/.dev: $(wildcard requirements/locked/*.txt)
	@tools/set_up.sh dev
	@touch $(VENV)/.runtime $@
