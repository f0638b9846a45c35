"""Data that the toolboxes lack: drawn images with objects of known shape, folders of images without labels.

May import nothing but the modules of the top level.
"""

from .image_folder import ImageFolder
from .shapes import CLASSES, ShapesSpec, make_shapes

__all__ = ['CLASSES', 'ImageFolder', 'ShapesSpec', 'make_shapes']
