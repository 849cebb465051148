"""The heart: g~ = g + α·scale(g, Δ), bound to a model and its optimizer.

gradient    the formulas, on one tensor                   bias       one guided step, over all ranks
prior       Δ bound to a model: bind, guide, metrics      callback   in any transformers Trainer
directions  Δ itself, or Δ on LoRA's factors              shards     where optimizers keep gradients
schedule    α over the steps                              kept       what a rank keeps of Δ
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
