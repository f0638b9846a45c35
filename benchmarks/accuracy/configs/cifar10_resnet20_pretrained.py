# A teacher of the CIFAR-10 studies whose weights import_weights.py writes.
_base_ = './cifar10_resnet20.py'
data_preprocessor = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
