"""MLflow: the only place that knows it.

A step writes what it does as lines (`steps`, `live` → `journal`); who runs the pipeline passes them on (`delivery` →
`runs`). On a cluster a step has a journal of its own and passes it on itself (`cluster`). What MLflow refuses stays,
and `resend` sends it later.

store      where MLflow is, that it answers, secrets out   journal   events as JSON lines
runs       a parent and a child per step and arm           delivery  a journal's way to MLflow, whatever breaks
steps      one step, as a component calls it               resend    what MLflow did not take, sent again
cluster    a step in a pod: its runs, signs of life        plugin    what Kubeflow's own plugin for MLflow says
ending     how a run ended                                 limits    how long a request may take
registry   registered models and the champions             rights    what MLflow lets its user do
storage    files of a model, from any address              ledger    every look that a gate took
records    what a run told, read from elsewhere            live      numbers of a step, while it works
progress   how far a step is: a bar, a log, numbers        machine   CPU, memory, disk, GPUs under a step
named      where registered models came from               ui        MLflow's pages over this machine's runs
registration  a model that passed becomes a version        copies    its files in MLflow
promotion  which version serves, what stands against it    versions  as a person looks at them
card       a version's model card                          packaging what lies beside its weights in MLflow
served     how MLflow's pyfunc loads it                    page      what the run's page says
outputs    what a step wrote, or a reference to it         tables    samples of rows, datasets
origin     who and what made a run                         carried   what a cached step did once
printed    a pod's log, kept
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
