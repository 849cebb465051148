from .comparison import compare as compare
from .decision import decide as decide
from .outcome import GateReport as GateReport
