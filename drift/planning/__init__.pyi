from .costs import cost as cost
from .doctor import examine as examine
from .reach import forecast as forecast
from .rehearsal import rehearsal_of as rehearsal_of
from .sizing import disk_of as disk_of
from .sizing import memory_of as memory_of
