_base_ = '../_base_/cifar100_200e.py'
model = dict(
    backbone=dict(type='ResNet_CIFAR', depth=18),
    head=dict(in_channels=512),
)
