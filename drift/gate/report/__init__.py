"""What a person reads when a run is over.

summary    the closing table                              page       all of it on one HTML page, and tables as CSV
models     every model with its answers, read once        verdict    two numbers and a sentence
contrasts  every model against every other                replies    by category, how long, how many cut
browser    all answers, packed to look through            setup      how the run was made
sections   the training, the data, the prior              plots      their pictures
exports    the tables as CSV                              render     a page from `templates/`
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
