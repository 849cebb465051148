from .arm import ArmReport as ArmReport
from .arm import run_arm as run_arm
from .sft import TrainReport as TrainReport
from .sft import train as train
