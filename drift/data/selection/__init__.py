"""From chains to a training set.

curation    the order of the stages           funnel      what each left out, and why
pool        problems and generations on disk  verdicts    right, wrong, or nobody knows
screening   each chain alone, then one of     filters     what is asked of a chain
            each problem                      lengths     in the student's tokens
questions   what is compared between problems judging     a judge where rules cannot decide
duplicates  two problems that are one         decontamination  what is evaluated
capping     which are kept, how many          noisy       the paper's Tab. 7
replay      questions about perception        writing     the rows, shuffled on disk
candidates  a generation as filters see it     distributed  expressions decided on other machines
"""
