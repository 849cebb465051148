from .tracker import Tracker as Tracker
