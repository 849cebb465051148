"""The one command, `drift`: a file per panel of its help, each command a call of one library function."""

from drift.cli.app import main

__all__ = ["main"]
