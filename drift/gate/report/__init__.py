"""What a person reads when a run is over.

summary   the closing table            plots   its pictures            page   one HTML page that needs no other file
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
