"""Is it better, and has it lost nothing? Two score folders in, a decision out.

statistics  paired differences of arrays                  comparison  of two score folders
rules       the gate's checks                             decision    candidate against baseline and champion
operating   what the gate can tell apart                  champion    the registry's champion, scored again
report/     the closing table, the plots, the HTML page
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
