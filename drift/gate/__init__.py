"""Is it better, and has it lost nothing? Two score folders in, a decision out.

statistics  paired differences of arrays                  answers     both models' to the same questions, as read
comparison  of two score folders                          rules       the gate's checks
resolution  what would show a loss as small as a margin   operating   what the gate can tell apart
champion    the registry's champions, scored again        succession  who takes the alias `champion`
decision    candidate against baseline and champions      outcome     what it gives, as `gate.json`
sheet       the same as `gate.md`                         report/     the closing table, the plots, the HTML page
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
