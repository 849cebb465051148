from .evaluation import EvaluateReport as EvaluateReport
from .evaluation import evaluate as evaluate
from .samples import Sample as Sample
from .samples import read_samples as read_samples
from .scores import Scores as Scores
from .scores import read_scores as read_scores
