"""Which benchmark plays a suite."""

from __future__ import annotations

from spatialvla.evaluation.benchmarks import libero, simpler
from spatialvla.evaluation.benchmarks.protocol import Benchmark


def benchmark_for(suite: str, image_size: int, dataset: str | None = None) -> Benchmark:
    """The benchmark that has this suite; any name that is not another benchmark's is taken for LIBERO's.

    image_size: side of the policy's image; LIBERO's pictures come in the smaller or the larger of two sizes.
    dataset: whose statistics scale the policy's actions; LIBERO's count in units of their own.
    """
    if suite in simpler.SUITES:
        foreign = dataset is not None and dataset.startswith("libero")
        return simpler.SimplerBenchmark(simpler.LIBERO_UNITS if foreign else (1.0, 1.0))
    return libero.LiberoBenchmark(128 if image_size <= 128 else 256)
