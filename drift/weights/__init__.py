"""Checkpoints on disk: read lazily, paired, subtracted, merged and written, tensor by tensor in small memory.

naming/   a decoder's tensors in any family     storage/  files, read and written
delta/    Δ, made and stored                    merging/  merges: the baselines
pairing   do two of them fit?                   modeling  models and processors
licences  of the checkpoints that a model comes from
vocabulary  which tokens do embeddings and head have?
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
