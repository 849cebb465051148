from .selection.curation import CurateReport as CurateReport
from .selection.curation import curate as curate
from .chains.distillation import GenerateReport as GenerateReport
from .chains.distillation import generate as generate
from .problems.ingestion import IngestReport as IngestReport
from .problems.ingestion import ingest as ingest
