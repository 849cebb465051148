from .callback import PriorCallback as PriorCallback
from .prior import BindReport as BindReport
from .prior import Prior as Prior
from .prior import PriorConfig as PriorConfig
from .prior import load_delta as load_delta
