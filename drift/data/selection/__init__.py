"""From chains to a training set.

curation  verdicts, funnel, files     filters  the funnel's stages
replay    questions about perception
"""
