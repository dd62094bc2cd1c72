"""The container images: linted, and each of their steps carried out here, where no engine needs to run."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from spatialvla_client import Client, Observation, Refused

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
SERVER = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]["server"]
KEY = "a-key-of-more-than-16-letters"


def test_the_dockerfile_is_clean():
    lint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([lint, DOCKER / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_what_the_dockerfile_copies_is_there_and_it_does_not_run_as_root():
    text = (DOCKER / "Dockerfile").read_text()
    for script in re.findall(r"docker/\w+\.sh", text):
        assert os.access(ROOT / script, os.X_OK), script
    *_, user = re.findall(r"^USER (\S+)$", text, re.MULTILINE)
    assert int(user) > 0
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", "runs"} <= set(ignored)


def test_compose_asks_for_a_key_and_opens_loopback_alone():
    assert ":?" in SERVER["environment"]["SPATIALVLA_API_KEY"]
    assert all(port.startswith("127.0.0.1:") for port in SERVER["ports"])
    gpu = yaml.safe_load((DOCKER / "compose.gpu.yaml").read_text())["services"]
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    assert gpu.keys() == services.keys()
    for service in services.values():
        assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


@pytest.mark.slow
def test_the_images_steps_make_a_server_that_is_healthy_and_asks_for_the_key(tmp_path):
    source = tmp_path / "source"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, tracked.decode().split("\0")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    wheels, installed = tmp_path / "wheels", tmp_path / "installed"
    subprocess.run([source / "docker" / "build.sh", wheels], env=environment, check=True)
    shutil.copy2(DOCKER / "install.sh", wheels)
    done = subprocess.run(
        [wheels / "install.sh", installed, "serve"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("Nothing is broken.\n")

    text = (DOCKER / "Dockerfile").read_text()
    check = json.loads(re.search(r"HEALTHCHECK.*?CMD (\[.*?\])$", text, re.MULTILINE | re.DOTALL)[1])
    check[0] = str(installed / "bin" / check[0])
    options = [option.replace("${POLICY:-nano}", "nano") for option in SERVER["command"]]
    environment |= {"SPATIALVLA_API_KEY": KEY}
    server = subprocess.Popen([installed / "bin" / "spatialvla", *options], cwd=tmp_path, env=environment)
    try:
        begun = time.monotonic()
        while subprocess.run(check, capture_output=True).returncode != 0:
            assert server.poll() is None
            assert time.monotonic() - begun < 240, "not healthy"
            time.sleep(1)
        seen = Observation(np.zeros((64, 64, 3), np.uint8), "pick up the black bowl")
        with pytest.raises(Refused):
            Client("ws://127.0.0.1:8000").act(seen)
        assert Client("ws://127.0.0.1:8000", api_key=KEY).act(seen).actions.shape == (4, 7)
    finally:
        server.terminate()
        server.wait(60)
