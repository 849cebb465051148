"""What a reply answers, and whether that is right. Training data and benchmark scores both stand on it.

A reply is read (`extract` → `answers`, with `letters` and `declared`), and its answer compared with the gold one
(`verdict` → `comparison`), by the kind of the gold: `numbers` with `units`, `times`, `lists`, `expressions`.

extract       thinking split off, boxes found             answers      the answer of a reply, and how it was read
letters       letters of options in a sentence            declared     "The answer is …", bold, last line, equation
verdict       `verify`: is it right?                      comparison   kind by kind, the strictest reading first
plain         one spelling of text and LaTeX              numbers      numbers with units, in any notation
exact         arithmetic without rounding                 units        pint, currencies, names people write
times         clock times and dates                       lists        lists, ratios, matrices, intervals
expressions   math-verify in processes, checked           table        `drift verify`: a file of pairs
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
