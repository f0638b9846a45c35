_base_ = '../_base_/cifar100.py'
model = dict(
    backbone=dict(type='mmkd.CIFARResNet', depth=20),
    head=dict(in_channels=64),
)
