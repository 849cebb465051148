from .curation import CurateReport as CurateReport
from .curation import curate as curate
from .distillation import GenerateReport as GenerateReport
from .distillation import generate as generate
from .ingestion import IngestReport as IngestReport
from .ingestion import ingest as ingest
