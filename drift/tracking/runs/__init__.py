"""What MLflow has of a run.

tracker   a parent, and a child per step and arm        ending    how a run ended
page      what the run's page says                      outputs   what a step wrote, or a reference to it
fields    parameters, numbers, tags within limits       tables    samples of rows, datasets
origin    who and what made a run                       carried   what a cached step did once
records   what a run told, read from elsewhere          points    of curves, one a step
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
