_base_ = '../_base_/cifar100.py'
model = dict(
    backbone=dict(type='mmkd.CIFARResNet', depth=8, widths=(32, 64, 128, 256)),
    head=dict(in_channels=256),
)
