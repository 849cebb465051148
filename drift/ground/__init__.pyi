from .artifacts import read_provenance as read_provenance
from .artifacts import staged as staged
from .errors import (
    CheckpointError as CheckpointError,
)
from .errors import (
    ConfigError as ConfigError,
)
from .errors import (
    DataError as DataError,
)
from .errors import (
    DiskError as DiskError,
)
from .errors import (
    DriftError as DriftError,
)
from .errors import (
    HeldError as HeldError,
)
from .errors import (
    PipelineError as PipelineError,
)
from .errors import (
    PriorError as PriorError,
)
from .errors import (
    ServiceError as ServiceError,
)
from .errors import (
    UnavailableError as UnavailableError,
)
