"""Supervised fine-tuning, with the prior or without: a training set in, a checkpoint out.

`arm` (an optional merge) → `sft` prepares the folder → one of three starts the ranks → `fit` is what each does.

arm      one way to a model           start     the champion's model, where training starts from it
sft      `train`                      fit       what one rank does
launch   ranks of this machine        ranks     ranks that torchrun started, on several
network  the model as it is trained   trainer   transformers' Trainer, with safeguards
batches  rows in, batches out         safety    NaN, checkpoints, SIGTERM, full disks
held_out how it goes on other rows    options   what this machine must have
telling  curves while it works        nodes     several, of a cluster
on_policy the student's own answers, scored by the expert
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
