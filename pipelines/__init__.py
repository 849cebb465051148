"""Wiring: which step feeds which, and how a run is made on this machine or compiled for a cluster."""
