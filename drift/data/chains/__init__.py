"""From problems to chains of thought.

distillation  all problems, resumable     teacher        who writes: `local_teacher`, or a server
requests      what a teacher is asked     prompts        the user's turn
generations   its files                   shards         whose problems are whose
"""
