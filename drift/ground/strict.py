"""JSON that every reader takes: a number that is none (NaN, an infinity) is null."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def strict_json(content: Any, **style: Any) -> str:
    """``content`` as JSON, written in the ``style`` that `json.dumps` takes.

    Python alone would write NaN and Infinity, which only Python reads back.
    """
    try:
        return json.dumps(content, allow_nan=False, **style)
    except ValueError:
        return json.dumps(_without_nan(content), allow_nan=False, **style)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _without_nan(inner) for key, inner in value.items()}
    return [_without_nan(inner) for inner in value] if isinstance(value, list | tuple) else value
