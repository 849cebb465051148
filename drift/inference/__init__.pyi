from .endpoint import Endpoint as Endpoint
from .local import LocalModel as LocalModel
from .reply import Reply as Reply
