"""MLflow: the only place that knows it.

A step writes what it does as lines (`steps` → `journal`); who runs the pipeline passes them on (`journal.Relay` →
`runs`). On a cluster a step logs by itself.

store       where MLflow is, that it answers, secrets taken out
journal     events as JSON lines, delivered in order      steps      one step, as a component calls it
runs        a parent and a child per step and arm         registry   registered models and the champions
storage     files of a model, from any address            rights     what MLflow lets its user do
ledger      every look that a gate took
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
