"""A training that is not silently wrong, and loses nothing.

watch        ends it at the first NaN           effect    can it matter, did it?
checkpoints  whole, or set aside                stopping  SIGTERM: save at the next step, and end
room         on the disk, before and when there is none
"""
