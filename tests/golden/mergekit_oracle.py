"""mergekit's own results on small tensors: the oracle of `tests/unit/weights/test_merge.py`, made once, by itself.

mergekit is no dependency, not even of the tests. With mergekit 0.1.5 in an environment of its own:

    python tests/golden/mergekit_oracle.py > tests/golden/mergekit.json
"""

from __future__ import annotations

import json
import sys

import torch
from mergekit.merge_methods.api import merge_tensors

CASES = {
    "linear": {"method": "linear", "weights": [0.9, 0.1], "options": {"normalize": False}},
    "task_arithmetic": {"method": "task_arithmetic", "weights": [0.9, 0.1], "options": {"normalize": False}},
    "both whole": {"method": "task_arithmetic", "weights": [1.0, 1.0], "options": {"normalize": False}},
    "dare_linear, published": {
        "method": "dare_linear",
        "weights": [1.6, 0.2],
        "options": {"normalize": False, "rescale": False, "density": 0.5},
    },
}
SEED = 1234
"""Of torch's own generator before each case: DARE draws its masks from it."""


def main() -> None:
    """Print the tensors and every case's result."""
    generator = torch.Generator().manual_seed(20)
    base = torch.randn(6, 5, generator=generator)
    vlm, expert = (base + 0.2 * torch.randn(6, 5, generator=generator) for _ in range(2))
    results = {}
    for name, case in CASES.items():
        tensors = [vlm, expert] if case["method"] == "linear" else [base, vlm, expert]
        first = len(tensors) - 2
        weights = {first: case["weights"][0], first + 1: case["weights"][1]}
        torch.manual_seed(SEED)
        merged = merge_tensors(
            tensors,
            case["method"],
            parameters={"weight": weights, **case["options"]},
            **({} if first == 0 else {"base_index": 0}),
        )
        results[name] = {"method": case["method"], "weights": case["weights"], "merged": merged.tolist()}
    tensors = {"base": base.tolist(), "vlm": vlm.tolist(), "expert": expert.tolist()}
    json.dump({"mergekit": "0.1.5", "seed": SEED, **tensors, "cases": results}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
