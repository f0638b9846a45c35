# A classifier of CIFAR-100 but for its backbone.
_base_ = [
    './models/cifar100_classifier.py',
    './datasets/cifar100_bs64.py',
    './schedules/cifar100_240e.py',
    './default_runtime.py',
]
default_scope = 'mmpretrain'
custom_imports = dict(imports=['mmkd'])
visualizer = dict(type='UniversalVisualizer')
