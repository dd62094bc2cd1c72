"""Ten thousand requests, and the server is as large as before."""

import gc
import os
import threading

import psutil
import pytest
from fake_policy import FakePolicy
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from running import fake_service, plain, serving

from spatialvla.serving.guard.traffic import TrafficLimits


@pytest.mark.slow
def test_memory_is_flat():
    process = psutil.Process(os.getpid())
    policy = FakePolicy()

    def ask(url: str, times: int) -> None:
        for _ in range(times // 50):  # connections come and go, too
            client = WebsocketClientPolicy(url)
            for number in range(50):
                client.infer(plain(number))
            client._ws.close()
        policy.batches.clear()
        policy.drafts.clear()
        policy.committed.clear()
        policy.executors.clear()

    def together(url: str, requests: int) -> float:
        threads = [threading.Thread(target=ask, args=(url, requests // 4)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        gc.collect()
        return process.memory_info().rss / 2**20

    traffic = TrafficLimits(rate=1e6, burst=10**6)
    with serving(fake_service(policy, traffic=traffic)) as running:
        start = together(running.url, 2000)
        middle = together(running.url, 4000)
        end = together(running.url, 4000)
        assert running.value("requests_total", outcome="ok") == 10_000
        print(f"{start:.1f} MB after 2,000 requests, {middle:.1f} MB after 6,000, {end:.1f} MB after 10,000")
        assert end - start < 10, f"{end - start:.0f} MB more"
