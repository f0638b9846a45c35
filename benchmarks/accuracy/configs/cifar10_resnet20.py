# The teacher of the CIFAR-10 study.
_base_ = './cifar10_resnet8.py'
model = dict(backbone=dict(depth=20))
epochs = 14
train_cfg = dict(max_epochs=epochs, val_interval=epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', T_max=epochs, by_epoch=True, convert_to_iter_based=True),
]
