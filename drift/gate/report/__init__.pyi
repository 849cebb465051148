from .page import make_report as make_report
from .page import write_report as write_report
from .summary import Summary as Summary
from .summary import summarize as summarize
