"""`python -m drift.cli`, too, is the command `drift`."""

from drift.cli import main

main()
