from .delivery import Relay as Relay
from .live import Live as Live
