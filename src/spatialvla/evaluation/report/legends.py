"""What the numbers, marks and pictures of a report mean, as HTML."""

from __future__ import annotations

from collections.abc import Mapping


def _legend(title: str, entries: Mapping[str, str]) -> str:
    rows = "".join(f"<dt>{term}</dt><dd>{meaning}</dd>" for term, meaning in entries.items())
    return f'<details class="legend"><summary>{title}</summary><dl>{rows}</dl></details>'


NUMBERS = _legend(
    "What the numbers and marks mean",
    {
        "✓ and ×": "An episode that succeeded, and one that failed; each leads to its video.",
        "Rate": "Episodes that succeeded, of those that were played.",
        "95 % interval": "The dot is the rate, the bar what the policy's true rate may be (Wilson's interval). "
        "With few episodes it is wide: rates whose bars overlap may be the same.",
        "Steps": "Control steps of an episode, on average over those that succeeded.",
        "Partial": "Episodes that came part of the way at least, where the benchmark says so.",
        "Start": "Number of the stored start state, the same for every policy.",
    },
)
PICTURES = _legend(
    "How to read the pictures",
    {
        "Depth": "Distance along the optical axis in meters: the model's estimate, or the simulator's. Yellow is "
        "near, dark blue is far.",
        "Points": "Each pixel as far away as its depth says, in parallel projection: turned by 34 degrees to "
        "either side and seen from 20 degrees above. What is far behind the scene is left out. Several cameras "
        "share one space, in which a thing is at one place for all of them if they are calibrated well.",
        "Axes": "x, y and z are those of the actions, of LIBERO and SimplerEnv the robot base's: x forward, y to "
        "its left, z up.",
        "θ, φ, r": "A step's translation as a direction and a length: θ is its angle from +z, φ its direction "
        "around z, from +x to +y, and r its length.",
        "Roll, pitch, yaw": "A step's rotation about x, y and z.",
        "Normalized": "−1 and 1 are the 1 % and 99 % quantiles of the training data in each dimension.",
        "Gray lines": "Edges of the bins: each token stands for one cell between them.",
        "Red marks": "The tokens that were chosen; k is the k-th step of the chunk. Steps with the same token "
        "share a mark.",
    },
)
CURVES = _legend(
    "What the curves mean",
    {
        "Entropy": "In bits, of the probabilities of all cells of the action grid, averaged over the steps of a chunk; "
        "below a video the sum of translation, rotation and gripper. 0 is sure; 1 is a choice between two equal cells.",
        "Spread": "How far, in millimeters, the translations that the policy thought possible for a step lie from "
        "their mean (root mean square), averaged over the steps of a chunk.",
        "Vertical line": "Where the video is.",
        "Limits": "A policy can be sure and wrong. What the curves say of failures has to be measured for each policy; "
        "benchmarks/failure_prediction.py does.",
    },
)
PAIRS = _legend(
    "What the numbers mean",
    {
        "Both, only, neither": "Episodes from the same start state in which both policies, one alone, or none "
        "succeeded. Only those with one winner tell the two apart.",
        "Difference": "The second policy's rate minus the first's, in percentage points, with its 95 % interval "
        "(Newcombe's, for paired outcomes).",
        "p": "How often chance alone would split the episodes with one winner as unevenly, were the two equally "
        "good (exact McNemar test). Below 0.05 a difference counts as shown.",
    },
)
