"""Supervised fine-tuning, with the prior or without: a training set in, a checkpoint out.

`arm` (an optional merge) → `sft` prepares the folder → one of three starts the ranks → `fit` is what each does.

arm      one way to a model           start     the champion's model, where training starts from it
sft      `train`                      fit       what one rank does
launch   ranks of this machine        ranks     ranks that torchrun started, on several
network  the model as it is trained   rows      chats as people have them, checked
collate  rows → batches, loss on answers
lengths  tokens of rows, counted once order     which rows a rank takes, and when
packing  batches without padding      held_out  how it goes on other rows
options  what this machine must have
watch    ends it at the first NaN     effect    can it matter, did it?
checkpoints  whole, or set aside      stopping  SIGTERM: save at the next step, and end
room     on the disk, before and when there is none

On several nodes of a cluster: `cluster` creates a TrainJob (`trainjob`) and watches it (`kube`), `node` runs in its
pods, `shared` is the claim where they meet.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
