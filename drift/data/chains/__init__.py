"""From problems to chains of thought.

distillation  all problems, resumable     teacher        who writes: `local_teacher`, or a server
requests      what a teacher is asked     prompts        the user's turn
generations   its files                   adaptive       which samples are worth asking for
shards        whose problems are whose    ready          chains that came with the problems
"""
