"""The container image of each role, read when a pipeline is defined. Its digest is the version of the code.

Local runs use no image; the names contain "python" because Kubeflow's local runner warns of others.
"""

from __future__ import annotations

import os

from drift import __version__

IMAGES = {
    role: os.environ.get(f"DRIFT_IMAGE_{role.upper()}", f"drift-{role}-python:{__version__}")
    for role in ("pipeline", "train", "evaluate")
}
"""`pipeline` needs no accelerator; `train` and `evaluate` hold a model."""
