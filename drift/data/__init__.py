"""Problems → generations of a teacher → verdicts on them → the training set of what passes.

ingestion     problems from a source, every reject counted; `sources` reads its rows
distillation  a teacher over all problems, resumable; `generations` are its files, `prompts` its user turns
teacher       who writes: `local_teacher`, a checkpoint, or a server; `requests` is what each is asked
curation      funnel, selection and perception replay; `filters` are its stages, `replay` its questions
tables        the columns of every file
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
