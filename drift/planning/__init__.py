"""Before anything is spent: what a run will do, cost and need, and whether everything it needs is there.

reach      how far each arm can go                        costs      tokens, operations and hours of each phase
sizing     GPU memory by ZeRO stage, disk                 doctor     what this machine has
rehearsal  a configuration, small; `tables` are its tiny benchmarks, miniature/ its models
inputs     what the inputs are, hashed in every run
outside    models and servers that a run needs             inside     what a pod of a role finds
beginning/ a first configuration, or a copy of an example
ablation/  many runs as one table: cells, what they cost together, the table of what is there
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
