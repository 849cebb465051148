"""A table of a paper as one file: arms from a grid, in runs over seeds and whatever else needs another run.

schema     the file                                      expansion  its cells: one configuration per run
identity   what a result rests on, so that it is made once     budget     what all cells cost together
results    scores of every row and cell, found again     table      means over seeds, paired differences, Holm
writing    Markdown, CSV, LaTeX                          plots      forest, scatter, heat map

Nothing is run here: `pipelines/local/ablation.py` does.
"""
