"""From a training set to batches.

collate  rows (`drift.data.rows`) → batches, loss on answers     order    which rows a rank takes, and when
lengths  tokens of rows, counted once                            packing  batches without padding
"""
