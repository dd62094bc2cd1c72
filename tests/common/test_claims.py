"""A claim keeps others out, ends with its process, and is not held on to by the workers of one that was killed."""

import multiprocessing
import os
import time

import pytest

from spatialvla.common.claims import claimed
from spatialvla.errors import InputError


def test_a_claim_keeps_others_out_until_it_ends(tmp_path):
    path = tmp_path / "out" / "results.json"
    with (
        claimed(path, "evaluation"),
        claimed(tmp_path / "other", "evaluation"),
        pytest.raises(InputError, match=f"^Another evaluation is writing {path}; choose another --out.$"),
        claimed(path, "evaluation"),
    ):
        raise AssertionError
    with claimed(path, "evaluation"):
        pass


def hold(path, started):
    with claimed(path, "run"):
        multiprocessing.get_context("fork").Process(target=work, args=(started,)).start()
        time.sleep(60)


def work(started):
    started.send(os.getpid())
    time.sleep(60)


def test_a_claim_ends_with_its_process_and_not_with_its_workers(tmp_path):
    here, there = multiprocessing.Pipe()
    holder = multiprocessing.get_context("fork").Process(target=hold, args=(tmp_path / "run", there))
    holder.start()
    worker = here.recv()
    with pytest.raises(InputError, match="Another run"), claimed(tmp_path / "run", "run"):
        raise AssertionError
    holder.kill()
    holder.join()
    with claimed(tmp_path / "run", "run"):
        os.kill(worker, 0)  # still there
        os.kill(worker, 9)
