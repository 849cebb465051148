"""On-policy distillation: the student answers a problem's image, the text expert scores each token on the words.

divergence  the loss          teacher  the frozen expert       prompts  what both are asked
rollouts    the student's     trainer  all of it in a step
"""
