_base_ = '../_base_/cifar100.py'
model = dict(
    backbone=dict(type='mmkd.WideResNet', depth=40, width=2),
    head=dict(in_channels=128),
)
