# `make demo` and `make test` are all a newcomer needs; both make their own environment in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
LEROBOT_VENV ?= .venv-lerobot
PYTHON312 ?= python3.12
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
INSTALL := $(PIP) -e packages/spatialvla-client -e
PACKAGES := pyproject.toml packages/spatialvla-client/pyproject.toml constraints.txt
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: help demo nano nano-wrist test slow sim simpler gym lerobot lint style types imports format docs wheels clean

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z -]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/demo-ready ## let the shipped model play LIBERO-Spatial; writes runs/demo/report.html
	MUJOCO_GL=egl $(BIN)/spatialvla demo

nano nano-wrist: $(VENV)/demo-ready ## make a shipped policy from nothing, which takes hours
	PATH="$(abspath $(BIN)):$$PATH" recipes/$@.sh

test: $(VENV)/test-ready ## run the default tests
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest -q

slow: $(VENV)/test-ready $(VENV)/demo-ready ## run the tests that take minutes or much memory
	MUJOCO_GL=egl $(BIN)/python -m pytest -q -m slow

sim: $(VENV)/test-ready $(VENV)/demo-ready ## run the tests in the LIBERO simulator
	MUJOCO_GL=egl $(BIN)/python -m pytest -q -m sim

# Mesa's Vulkan drivers draw the scenes, which are in the folder that MS_ASSET_DIR names.
simpler: $(VENV)/test-ready $(VENV)/simpler-ready ## run the tests in SimplerEnv's scenes (ManiSkill 3)
	$(BIN)/python -m pytest -q -m sim tests/evaluation/test_simpler_benchmark.py tests/simulation/test_widowx.py

gym: $(VENV)/test-ready ## run the tests in a Gymnasium environment of another package (panda-gym)
	$(PIP) panda-gym
	$(BIN)/python -m pytest -q -m sim tests/evaluation/test_gym_benchmark.py

# LeRobot needs Python 3.12 and brings a torch of its own: some gigabytes.
lerobot: $(VENV)/test-ready $(LEROBOT_VENV)/ready ## run our policy in LeRobot, and LeRobot's client on our server
	$(LEROBOT_VENV)/bin/python -m pytest -q packages/lerobot_policy_spatialvla
	LEROBOT_PYTHON=$(abspath $(LEROBOT_VENV))/bin/python $(BIN)/python -m pytest -q -m slow tests/serving/test_lerobot_server_client.py

lint: style types imports ## run every linter

style: $(VENV)/test-ready ## check the code's style with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/test-ready ## check types with mypy
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.10 --no-warn-return-any -p spatialvla_client

imports: $(VENV)/test-ready ## check with import-linter that imports point one way
	$(BIN)/lint-imports

format: $(VENV)/test-ready ## format the code, and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/docs-ready ## build the documentation into site/; a broken link is an error
	$(BIN)/mkdocs build --strict

wheels: $(VENV)/test-ready ## build both distributions into dist/, and use them in clean environments, as the images do
	$(BIN)/python -m pytest -q -m slow tests/test_wheels.py tests/test_docker.py

clean: ## remove what was built, the environment included
	rm -rf $(VENV) dist site build src/*.egg-info packages/*/build packages/*/src/*.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=")'
	$(PYTHON) -m venv $(VENV) || { $(SUDO) apt-get install -y -qq python3-venv && $(PYTHON) -m venv $(VENV); }

$(VENV)/demo-ready: $(BIN)/python $(PACKAGES)
	@ldconfig -p | grep -q libEGL.so.1 || { echo "Installing Mesa, the software renderer of the simulator"; \
	  $(SUDO) apt-get update -qq; $(SUDO) apt-get install -y -qq libegl1 libgl1 libgl1-mesa-dri libglib2.0-0; }
	$(INSTALL) '.[libero,viz]'
	touch $@

# SAPIEN needs Mesa 23 or newer. Debian 12 has it in its backports, which the mirror in use also has; only the Vulkan
# drivers and what they need come from there, so that LIBERO is drawn as before.
$(VENV)/simpler-ready: $(BIN)/python $(PACKAGES)
	@ls /usr/share/vulkan/icd.d/lvp_icd*.json > /dev/null 2>&1 || { \
	  echo "Installing Mesa's Vulkan drivers, the software renderer of ManiSkill"; \
	  . /etc/os-release; packages=mesa-vulkan-drivers; $(SUDO) apt-get update -qq; \
	  if [ "$$VERSION_CODENAME" = bookworm ]; then \
	    mirror=$$(apt-get indextargets --format '$$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' | head -n 1); \
	    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $$mirror bookworm-backports main" | \
	      $(SUDO) tee /etc/apt/sources.list.d/bookworm-backports.list > /dev/null; \
	    $(SUDO) apt-get update -qq; \
	    packages=$$(printf '%s/bookworm-backports ' mesa-vulkan-drivers libdrm2 libdrm-amdgpu1 libdrm-common); \
	  fi; $(SUDO) apt-get install -y -qq libvulkan1 $$packages; }
	$(INSTALL) '.[simpler]'
	touch $@

$(VENV)/docs-ready: $(VENV)/test-ready
	$(INSTALL) '.[docs]'
	touch $@

$(LEROBOT_VENV)/ready: packages/lerobot_policy_spatialvla/pyproject.toml
	$(PYTHON312) -m venv $(LEROBOT_VENV)
	$(LEROBOT_VENV)/bin/python -m pip install --quiet 'lerobot[async]==0.6.1' -e packages/spatialvla-client -e . \
	  -e 'packages/lerobot_policy_spatialvla[dev]'
	touch $@

$(VENV)/test-ready: $(BIN)/python $(PACKAGES)
	$(INSTALL) '.[dev]'
	$(PIP) --no-deps openpi-client  # it asks for numpy 1 and works with 2
	touch $@
