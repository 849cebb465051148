from .registration import register as register
from .registry import find_champion as find_champion
