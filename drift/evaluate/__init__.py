"""Benchmarks in; one score table and per-sample rows out. The only place that knows VLMEvalKit.

`evaluation`: tables → questions → replies → a sample per question → scores.

benchmarks  tables in VLMEvalKit's format, row by row     formats     what a row of each benchmark says
questions   what is asked, and which together             collect     all replies, kept on disk as they come
answering   answers of a local checkpoint                 rule        the offline protocol: extracts and compares
judged      the protocol with a judge                     vlmevalkit  what the judge's process runs
samples     one answered question, and all                columns     the headline numbers, unit by unit
scores      columns with intervals, means of roles        table       the scores for people, beside the paper's
overlaps    questions that two tables share               rescoring   stored replies judged again
shards      asked in parts, judged together               asking      a person's question, outside any benchmark
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
