"""Doors: one module per step, each a body that makes one library call. No logic lives here."""
