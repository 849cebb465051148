"""A run on this machine.

run         the whole chain: continued where it stopped, checked afterwards
runner      the tasks of one run: events, a log per step, a stop at the first failure
kubeflow    Kubeflow's local runner under it, adapted       folders     run folders and their states
work        a step's process, started and signalled         forkserver  the program that forks it
containers  steps in Docker instead
past        runs that were, and where their outputs are     difference  two of them side by side
clean       disk freed of old ones                          result      what a finished one gave
"""
