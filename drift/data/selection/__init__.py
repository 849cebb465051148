"""From chains to a training set.

curation    the order, and the files     filters   of one chain, by its text and verdict
candidates  what the filters look at     judging   a judge where rules cannot decide
capping     which are kept, how many     lengths   of one chain, in the student's tokens
funnel      what was left out, and why   noisy     the paper's Tab. 7
replay      questions about perception
"""
