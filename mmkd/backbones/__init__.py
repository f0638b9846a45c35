"""Students and teachers of the CIFAR and ImageNet literature that the toolboxes lack.

May import nothing but the modules of the top level.
"""

from .cifar_resnet import CIFARResNet
from .cifar_vgg import CIFARVGG
from .mobilenet_v1 import MobileNetV1
from .wide_resnet import WideResNet

__all__ = ['CIFARVGG', 'CIFARResNet', 'MobileNetV1', 'WideResNet']
