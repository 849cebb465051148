"""mergekit's own results on small tensors: the oracle of `tests/unit/weights/test_merge.py`, made once, by itself.

mergekit is no dependency, not even of the tests. With mergekit 0.1.5 in an environment of its own:

    python tests/golden/mergekit_oracle.py > tests/golden/mergekit.json
"""

from __future__ import annotations

import json
import sys
from typing import Any

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
    "slerp": {"method": "slerp", "weights": [0.7, 0.3], "options": {}},
    "della_linear": {
        "method": "della_linear",
        "weights": [1.6, 0.2],
        "options": {"normalize": False, "rescale": False, "density": 0.5, "epsilon": 0.2},
    },
    "della": {
        "method": "della",
        "weights": [1.0, 1.0],
        "options": {"normalize": True, "rescale": False, "density": 0.5, "epsilon": 0.2},
    },
}
"""`rescale` is off where masks are drawn: mergekit rescales to the L1 norm, the papers by the chance to be kept. Of
`della` the weights are 1 and normalized: mergekit then divides by the number that agree, as TIES' paper does."""
SEED = 1234
"""Of torch's own generator before each case: DARE draws its masks from it."""


def main() -> None:
    """Print the tensors and every case's result."""
    generator = torch.Generator().manual_seed(20)
    base = torch.randn(6, 5, generator=generator)
    vlm, expert = (base + 0.2 * torch.randn(6, 5, generator=generator) for _ in range(2))
    results = {}
    for name, case in CASES.items():
        torch.manual_seed(SEED)
        merged = _merged(case, vlm, expert, base)
        results[name] = {"method": case["method"], "weights": case["weights"], "merged": merged.tolist()}
    tensors = {"base": base.tolist(), "vlm": vlm.tolist(), "expert": expert.tolist()}
    json.dump({"mergekit": "0.1.5", "seed": SEED, **tensors, "cases": results}, sys.stdout, indent=1)


def _merged(case: dict[str, Any], vlm: torch.Tensor, expert: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    method, weights = case["method"], case["weights"]
    if method == "slerp":
        return merge_tensors([vlm, expert], method, parameters={"t": weights[1]}, base_index=0)
    tensors = [vlm, expert] if method == "linear" else [base, vlm, expert]
    first = len(tensors) - 2
    parameters = {"weight": {first: weights[0], first + 1: weights[1]}, **case["options"]}
    return merge_tensors(tensors, method, parameters=parameters, **({} if first == 0 else {"base_index": 0}))


if __name__ == "__main__":
    main()
