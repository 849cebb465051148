from .chain import ArmConfig as ArmConfig
from .chain import Config as Config
from .chain import TrackingConfig as TrackingConfig
from .data import (
    CurateConfig as CurateConfig,
)
from .data import (
    GenerateConfig as GenerateConfig,
)
from .data import (
    IngestConfig as IngestConfig,
)
from .data import (
    ReplayConfig as ReplayConfig,
)
from .evaluate import BenchmarkConfig as BenchmarkConfig
from .evaluate import EvaluateConfig as EvaluateConfig
from .file import load as load
from .file import schema as schema
from .gate import GateConfig as GateConfig
from .gate import RegisterConfig as RegisterConfig
from .models import (
    DeltaConfig as DeltaConfig,
)
from .models import (
    ExpertConfig as ExpertConfig,
)
from .models import (
    MergeConfig as MergeConfig,
)
from .models import (
    ModelsConfig as ModelsConfig,
)
from .plan import Plan as Plan
from .servers import EndpointConfig as EndpointConfig
from .servers import JudgeConfig as JudgeConfig
from .train import (
    HeldOutConfig as HeldOutConfig,
)
from .train import (
    LoraConfig as LoraConfig,
)
from .train import (
    PriorConfig as PriorConfig,
)
from .train import (
    ScheduleConfig as ScheduleConfig,
)
from .train import (
    TrainConfig as TrainConfig,
)
