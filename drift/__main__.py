"""`python -m drift` is the command `drift`."""

from drift.cli import main

main()
