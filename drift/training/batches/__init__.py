"""From a training set to batches.

rows     chats as people have them, checked     collate  rows → batches, loss on answers
lengths  tokens of rows, counted once           order    which rows a rank takes, and when
packing  batches without padding
"""
