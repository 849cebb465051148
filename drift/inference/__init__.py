"""Asking a model, wherever it is: a question in, a `Reply` out, kept on disk as it comes.

local       a checkpoint on this machine, batch by batch   draws      seeded draws, row by row
endpoint    any OpenAI-compatible servers                  servers    which of them is asked, and their refusals
completion  a reply read, whatever was sent                limits     requests and tokens a minute, and a price
served      a checkpoint served by vLLM, while it is asked guard      what ends that server with its step
parts       replies on disk, appended as they come         index      where the line of each key is
images      images as models see them                      reply      what a model wrote
placeholders  where images stand in a text             turns      a question, and the dialogue before it

serving/    a model served for others until somebody ends it
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
