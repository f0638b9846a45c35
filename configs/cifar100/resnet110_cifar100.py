_base_ = '../_base_/cifar100.py'
model = dict(
    backbone=dict(type='mmkd.CIFARResNet', depth=110),
    head=dict(in_channels=64),
)
