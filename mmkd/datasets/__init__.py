"""The embedded data set."""

from .shapes import CLASSES, ShapesSpec, make_shapes

__all__ = ['CLASSES', 'ShapesSpec', 'make_shapes']
