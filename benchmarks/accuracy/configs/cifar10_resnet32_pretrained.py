# A teacher of the CIFAR-10 studies whose weights import_weights.py writes.
_base_ = './cifar10_resnet20_pretrained.py'
model = dict(backbone=dict(depth=32))
