"""What a run says of itself, and how it gets to MLflow.

journal   events as JSON lines                          delivery  a journal's way to MLflow, whatever breaks
live      numbers of a step, while it works             progress  how far a step is: a bar, a log, numbers
machine   CPU, memory, disk, GPUs under a step          printed   a pod's log, kept
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
