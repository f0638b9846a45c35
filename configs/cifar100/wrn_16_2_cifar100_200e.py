_base_ = '../_base_/cifar100_200e.py'
model = dict(
    backbone=dict(type='mmkd.WideResNet', depth=16, width=2),
    head=dict(in_channels=128),
)
