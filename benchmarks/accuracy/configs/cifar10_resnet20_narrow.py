# A student of the CIFAR-10 studies: as deep as the smallest teacher and half as wide.
_base_ = './cifar10_resnet8.py'
model = dict(
    backbone=dict(depth=20, widths=(8, 8, 16, 32)),
    head=dict(in_channels=32),
)
