"""MLflow: the only place that knows it.

A step writes what it does as lines (`steps` → `journal`); who runs the pipeline passes them on (`journal.Relay` →
`runs`). On a cluster a step tells MLflow by itself (`steps` → `cluster` → `runs`).

store      where MLflow is, that it answers, secrets out   journal   events as JSON lines, delivered in order
runs       a parent and a child per step and arm           steps     one step, as a component calls it
cluster    a step in a pod: its runs, signs of life        plugin    what Kubeflow's own plugin for MLflow says
ending     how a run ended                                 registry  registered models and the champions
storage    files of a model, from any address              rights    what MLflow lets its user do
page       what the run's page says           outputs    what a step wrote, or a reference to it
tables     samples of rows, datasets           origin     who and what made a run
carried    what a cached step did once         printed    a pod's log, kept
ledger     every look that a gate took                     records   what a run told, read from elsewhere
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
