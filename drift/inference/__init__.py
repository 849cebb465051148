"""Asking a model, wherever it is: a question in, a `Reply` out, kept on disk as it comes.

local       a checkpoint on this machine, batch by batch   endpoint   any OpenAI-compatible server
images      images as models see them                     reply      what a model wrote
parts       replies on disk, appended as they come         draws      seeded draws, row by row
served      a checkpoint served by vLLM, while it is asked guard      what ends that server with its step
placeholders  where images stand in a text
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
