"""Δ = φ_reason − φ_other: made, stored, read again, shown.

delta      Δ and its statistics      deltas  all named Δ of a run
deltafile  a stored Δ                about   what a Δ says of itself
stretches  of one tensor of Δ, one after the other
"""
