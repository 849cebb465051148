"""What all stand on.

errors     everything a user can get wrong, as a tree     artifacts    folders: complete or absent, with provenance
findings   what checks find                               fingerprint  what code a step depends on
drawing    plots as SVG                               patience     what is worth another try, and trying again
locks      who works on what, one at a time           disk         a full one, said on one line
claim      work that outlives its process, on a path  strict       JSON without NaN
decoding   pictures as models see them                torchvision  its CUDA build beside torch for the CPU
hashes     of files, large ones remembered            progress     a bar, or lines of a log where there is no terminal
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
