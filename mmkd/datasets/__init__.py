"""Data that mmkd makes itself: drawn images with objects of known shape.

May import nothing but the modules of the top level.
"""

from .shapes import CLASSES, ShapesSpec, make_shapes

__all__ = ['CLASSES', 'ShapesSpec', 'make_shapes']
