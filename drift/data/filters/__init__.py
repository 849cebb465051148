"""Why a chain, or its problem, is left out.

single      one chain, by its text and verdict     lengths   in the student's tokens
candidates  what the filters look at               judging   a judge where rules cannot decide
duplicates  two problems that are one              decontamination  what is evaluated
questions   what is compared between problems      capping   which are kept, how many
noisy       the paper's Tab. 7
"""
