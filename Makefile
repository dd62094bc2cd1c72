# `make demo` and `make test` are all a newcomer needs; both make their own environment in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
INSTALL := $(PIP) -e packages/spatialvla-client -e
PACKAGES := pyproject.toml packages/spatialvla-client/pyproject.toml constraints.txt
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: demo test lerobot lint slow sim simpler clean

demo: $(VENV)/demo-ready
	MUJOCO_GL=egl $(BIN)/spatialvla demo

test: $(VENV)/test-ready
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest -q

slow sim: $(VENV)/test-ready $(VENV)/demo-ready
	MUJOCO_GL=egl $(BIN)/python -m pytest -q -m $@

# SimplerEnv's tasks in ManiSkill 3, and Vulkan drivers to draw them. MS_ASSET_DIR has to name the scenes' folder.
simpler: $(VENV)/test-ready $(VENV)/simpler-ready
	$(BIN)/python -m pytest -q -m sim tests/evaluation/test_simpler_benchmark.py tests/simulation/test_widowx.py

# LeRobot's own robot client against our server. It needs Python 3.12 and brings a torch of its own: some gigabytes.
PYTHON312 ?= python3.12
LEROBOT_VENV ?= .venv-lerobot

lerobot: $(VENV)/test-ready $(LEROBOT_VENV)/ready
	LEROBOT_PYTHON=$(abspath $(LEROBOT_VENV))/bin/python $(BIN)/python -m pytest -q -m slow tests/serving/test_lerobot_server_client.py

$(LEROBOT_VENV)/ready:
	$(PYTHON312) -m venv $(LEROBOT_VENV)
	$(LEROBOT_VENV)/bin/python -m pip install --quiet 'lerobot[async]==0.6.1'
	touch $@

lint: $(VENV)/test-ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

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

$(VENV)/test-ready: $(BIN)/python $(PACKAGES)
	$(INSTALL) '.[dev]'
	$(PIP) --no-deps openpi-client  # it asks for numpy 1 and works with 2
	touch $@

clean:
	rm -rf $(VENV) build dist src/*.egg-info packages/*/build packages/*/dist packages/*/src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
