"""What a reply answers, and whether that is right. Training data and benchmark scores both stand on it.

extract   thinking split off, the final answer found      answers   an answer of the form a benchmark wants
verdict   is it equal to the gold answer?                 numbers   numbers, fractions and units in text
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
