"""What a run is: every section of a configuration, how files are read, and the parameter that each step gets.

A file is read and checked whole before anything starts: `file` → the sections → `chain`, which checks what must fit
across them → `plan`, one JSON string per step. Imports no torch.

section     strict sections, errors on one line          servers    endpoints and judges
data        `ingest`, `generate`, `curate`               models     `models`, `deltas`, merges
train       `train` and its prior                        evaluate   `evaluate`
gate        `gate`, `register`                           chain      the whole
file        YAML, `extends`, dotted overrides            zero       DeepSpeed's file against `train`
plan        a parameter per step                         catalog    the published benchmarks
published   the paper's numbers                      nodes      what a training's nodes get
places      where a task stands in a run's loops
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
