"""Checkpoints on disk: read lazily, paired, subtracted, merged and written, tensor by tensor in small memory.

checkpoints  lazy safetensors        layout     the decoder's canonical names in any family
files        which files are read    decoder    where the text decoder is    configurations  do two of them fit?
pairing      do two of them fit?     streaming  a safetensors writer
delta        Δ and its statistics    deltas     all named Δ of a run     deltafile  a stored Δ
forms        whole, factors, 8 bits  about      what a Δ says of itself  adapters   LoRA over a base
finite       does a tensor hold NaN? vocabulary which tokens do embeddings and head have?
merging/     merges: the baselines   modeling   models and processors    hub        is it on the hub?
licences     of the checkpoints that a model comes from
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
