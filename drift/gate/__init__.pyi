from .comparison import compare as compare
from .decision import GateReport as GateReport
from .decision import decide as decide
