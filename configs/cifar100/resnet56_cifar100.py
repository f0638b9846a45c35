_base_ = [
    '../_base_/models/cifar100_classifier.py',
    '../_base_/datasets/cifar100_bs64.py',
    '../_base_/schedules/cifar100_240e.py',
    '../_base_/default_runtime.py',
]
default_scope = 'mmpretrain'
custom_imports = dict(imports=['mmkd'])
visualizer = dict(type='UniversalVisualizer')
model = dict(
    backbone=dict(type='mmkd.CIFARResNet', depth=56),
    head=dict(in_channels=64),
)
