"""HF_HUB_OFFLINE: a checkpoint comes from the cache that huggingface_hub left, or the sentence says why not."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

CHECKPOINT = Path(__file__).parents[1] / "goldens" / "reference" / "checkpoint"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """What `hf download robots/tiny` leaves: files by their contents, and snapshots that link to them."""
    home = tmp_path_factory.mktemp("hub")
    repository = home / "hub" / "models--robots--tiny"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, file in enumerate(sorted(CHECKPOINT.iterdir())):
        shutil.copy(file, repository / "blobs" / str(number))
        (snapshot / file.name).symlink_to(Path("..", "..", "blobs", str(number)))
    (repository / "refs").mkdir()
    for branch in ("main", "v2"):
        (repository / "refs" / branch).write_text(COMMIT)
    return home


# huggingface_hub reads its settings when it is imported: hence a process of its own.
_SCRIPT = """
import json, sys
import numpy as np
from spatialvla import Observation, Policy
from spatialvla.errors import CheckpointError

def told(policy):
    try:
        loaded = Policy.from_pretrained(policy, dataset="tiny_robot/0.1.0")
    except CheckpointError as error:
        return str(error)
    return loaded.predict([Observation(np.zeros((48, 64, 3), np.uint8), "stop")])[0].actions.tolist()

print(json.dumps({policy: told(policy) for policy in sys.argv[1:]}))
"""


def test_a_checkpoint_comes_from_the_cache_or_the_sentence_says_why_not(cache):
    cached = ["robots/tiny", "robots/tiny@v2", f"robots/tiny@{COMMIT}"]
    missing = ["robots/other", "robots/tiny@v3"]
    run = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(CHECKPOINT), *cached, *missing],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(cache)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)
    assert np.shape(told[str(CHECKPOINT)]) == (2, 7)
    for policy in cached:
        assert told[policy] == told[str(CHECKPOINT)]
    for policy in missing:
        assert "a Hub id that was fetched before (HF_HUB_OFFLINE is set)" in told[policy]
