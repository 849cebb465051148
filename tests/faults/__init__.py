"""The fault campaign: every command under every fault, judged by one rule. `make faults` runs all of it.

commands   what is run: one row a command        faults   what goes wrong: one column a fault
cells      a command under a fault, judged       world    the inputs of all commands, made once
servers    the teacher, MLflow, a way to break them      table    the table of docs/reliability.md
"""
