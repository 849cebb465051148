"""From chains to a training set.

curation   the order of the stages         funnel       what each left out, and why
screening  each chain alone, then one of   verdicts     right, wrong, or nobody knows
           each problem                    distributed  expressions on a Ray cluster
replay     questions about perception      writing      the rows, shuffled on disk
"""
