"""Supervised fine-tuning, with the prior or without: a training set in, a checkpoint out.

`arm` (an optional merge) → `sft` prepares the folder → `launch` starts the ranks → `fit` is what each does.

arm      one way to a model           start    the champion's model, where training starts from it
sft      `train`                      fit      what one rank does
launch   one process or several       network  the model as it is trained
collate  rows → batches, loss on answers
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
