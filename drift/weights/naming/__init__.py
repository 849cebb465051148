"""What a text decoder's tensors are called, in any family, and what two configurations say of them: no tensor is read.

layout  canonical names, modules, partners      decoder  where the text decoder is      configurations  do two fit?
"""
