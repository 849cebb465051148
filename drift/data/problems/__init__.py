"""From a source to problems.

ingestion  a row → a problem, or a reject     sources  rows of a source
tsv        a benchmark's table
"""
