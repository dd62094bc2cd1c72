"""The Markdown table of `inference.py`."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np

STAGES = ("depth", "siglip", "prefill", "decode")


def table(report: dict[str, Any]) -> str:
    speeds = report["speeds"]
    lines = [
        f"{report['case']} in {report['dtype'].removeprefix('torch.')}, {report['device']}, "
        f"{report['threads']} threads; {speeds['bytes_per_second'] / 1e9:.0f} GB/s, "
        f"{speeds['flops'] / 1e12:.2f} TFLOP/s",
        "",
        "| batch | way | p50 | p95 | CPU | "
        + " | ".join(STAGES)
        + " | chunks/s | actions/s | memory | is faster |",
        "|---:|---|" + 11 * "---:|",
    ]
    for case in report["batches"]:
        peer = case["measured"].get("peer", case["measured"]["ours"])["wall"]
        for name, run in case["measured"].items():
            middle = statistics.median(run["wall"])
            stages = [1e3 * statistics.median(times) if times else None for times in run["stages"].values()]
            rate = case["rows"] / middle
            memory = case["memory_gb"].get(name)
            ratio = statistics.median(p / o for p, o in zip(peer, run["wall"], strict=True))
            cells = [
                f"{1e3 * middle:.1f} ms",
                f"{1e3 * float(np.quantile(run['wall'], 0.95)):.1f} ms",
                f"{1e3 * statistics.median(run['cpu']):.0f} ms",
                *("" if stage is None else f"{stage:.1f}" for stage in stages),
                f"{rate:.2f}",
                f"{rate * case['chunk']:.1f}",
                "" if memory is None else f"{memory:.1f} GB",
                f"{ratio:.2f}",
            ]
            lines.append(f"| {case['rows']} | {name} | {' | '.join(cells)} |")
        floor = case["floor_seconds"]
        lines.append(
            f"| {case['rows']} | floor | {1e3 * sum(floor.values()):.1f} ms | | | "
            + " | ".join(f"{1e3 * floor[stage]:.1f}" for stage in STAGES)
            + " | | | | |"
        )
        ours = case["measured"]["ours"]
        reached = {stage: floor[stage] / statistics.median(ours["stages"][stage]) for stage in STAGES}
        whole = sum(floor.values()) / statistics.median(ours["wall"])
        lines.append(
            f"| {case['rows']} | of the floor | {whole:.0%} | | | "
            + " | ".join(f"{reached[stage]:.0%}" for stage in STAGES)
            + " | | | | |"
        )
    for case in report["batches"]:
        drafts = case["passes_with_drafts"]
        lines += ["", f"Batch {case['rows']}:"]
        if case["same_tokens"] is not None:
            lines[-1] += f" {case['same_tokens']:.1%} of the tokens equal the peer's."
        if drafts is not None:
            lines[-1] += f" {drafts:.2f} passes a chunk with drafts."
    return "\n".join(lines) + "\n"
