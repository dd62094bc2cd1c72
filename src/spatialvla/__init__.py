"""SpatialVLA: one RGB image and an instruction in, a chunk of 7-DoF robot actions out."""

from importlib.metadata import version

import lazy_loader

# The names of `__init__.pyi`, each loaded when first used: importing the package loads neither torch nor NumPy.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = version("spatialvla")
