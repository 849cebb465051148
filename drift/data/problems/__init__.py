"""From a source to problems.

ingestion  a row → a problem, or a reject     sources  where rows come from, one or several mixed
formats    what a row says                    files    rows of files
checks     what a problem must be             tsv      a benchmark's table
"""
