"""MLflow: the only place that knows it.

A step writes what it does as lines into a journal; who runs the pipeline passes them on. On a cluster a step has a
journal of its own and passes it on itself (`cluster`). What MLflow refuses stays, and `resend` sends it later.

telling    a step's lines, and their way to MLflow         runs      what MLflow has of a run: pages, numbers, files
models     the registry: versions, champions, rights       steps     one step, as a component calls it
cluster    a step in a pod: its runs, signs of life        plugin    what Kubeflow's own plugin for MLflow says
store      where MLflow is, that it answers, secrets out   limits    how long a request may take
resend     what MLflow did not take, sent again            ui        MLflow's pages over this machine's runs
facts      what a report says of its run
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
