"""The public names, as type checkers see them and as `__init__.py` loads them."""

from .actions.embeddings import adapt_embeddings as adapt_embeddings
from .actions.grids import ActionGrid as ActionGrid
from .batch import Batch as Batch
from .errors import CheckpointError as CheckpointError
from .errors import InputError as InputError
from .errors import NotFiniteError as NotFiniteError
from .execution import Execution as Execution
from .model.config import SpatialVLAConfig as SpatialVLAConfig
from .model.fast.options import Optimization as Optimization
from .model.spatialvla import SpatialVLA as SpatialVLA
from .policy import Policy as Policy
from .processor import Processor as Processor
from .types import ActionChunk as ActionChunk
from .types import CameraImage as CameraImage
from .types import Observation as Observation
from .types import Uncertainty as Uncertainty

__version__: str
