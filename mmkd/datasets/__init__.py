"""Data that the toolboxes lack: drawn objects of known shape, images without labels, boxes with scores.

May import nothing but the modules of the top level.
"""

from .image_folder import ImageFolder
from .scores import build_pseudo_coco
from .shapes import CLASSES, ShapesSpec, make_shapes

__all__ = ['CLASSES', 'ImageFolder', 'ShapesSpec', 'build_pseudo_coco', 'make_shapes']
