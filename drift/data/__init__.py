"""Data: problems, generations of a teacher, verdicts on them, and the training set made of what passes.

ingest     problems from a source, with every reject counted; sources reads its rows, images its images
generate   a teacher over all problems, resumable; parts are its files, prompts its user turns
teacher    the protocol of a teacher: local_teacher is a checkpoint, endpoint_teacher a server
verify     typed comparison of final answers with gold answers; extract finds them, numbers reads numbers
curate     funnel, selection and perception replay to the training set; filters are its stages
tables     the columns of every file
"""
