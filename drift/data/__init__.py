"""Problems → generations of a teacher → verdicts on them → the training set of what passes.

problems   rows of a source, checked; every reject counted
chains     a teacher over all problems, several samples each, resumable
filters    why a chain, or its problem, is left out
selection  the funnel that all pass, and perception replay
exports    for other trainers and for people: a dataset card, a page to look at
pool       problems and generations on disk     near       images and texts that are nearly the same
tables     the columns of every file            rows       chats of a training set, checked
processed  a row in the student's tokens
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
