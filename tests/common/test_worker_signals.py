import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from spatialvla.common.worker_signals import dropping_the_rest

SCRIPT = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from spatialvla.common.worker_signals import end_with_parent

if __name__ == "__main__":
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=end_with_parent) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 600).result()
"""


def test_a_worker_ends_in_the_midst_of_its_work_where_its_parent_is_killed(tmp_path):
    (tmp_path / "parent.py").write_text(SCRIPT)
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    os.kill(worker, 0)  # it lives
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 30
    while is_running(worker):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.stdout.close()


def is_running(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"  # nobody may have asked how it ended
    except FileNotFoundError:
        return False


def test_a_request_to_stop_waits_for_no_task_that_has_not_begun():
    begun, done, waiting = Event(), [], []

    def task(number):
        begun.set()
        done.append(number)
        time.sleep(0.2)

    def stopped():
        with ThreadPoolExecutor(1) as pool, dropping_the_rest(pool):
            waiting.extend(pool.submit(task, number) for number in range(50))
            begun.wait()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert len(done) < 3
    assert waiting[-1].cancelled()
