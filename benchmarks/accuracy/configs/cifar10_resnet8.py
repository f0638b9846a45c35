# The student of the CIFAR-10 study; `study.py` writes the data set.
_base_ = '../../../configs/_base_/cifar100.py'
data = dict(type='CustomDataset', _delete_=True, data_root='work_dirs/accuracy/data/cifar10/')
names = ['airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck']
train_pipeline = [dict(type='LoadImageFromFile'), *_base_.train_pipeline]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
data_preprocessor = dict(
    num_classes=10, mean=[125.307, 122.961, 113.8575], std=[51.5865, 50.847, 51.255], to_rgb=True
)
train_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(**data, data_prefix='train', classes=names, pipeline=train_pipeline),
)
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(**data, data_prefix='test', classes=names, pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1,), _delete_=True)
test_evaluator = val_evaluator
model = dict(
    backbone=dict(type='mmkd.CIFARResNet', depth=8),
    head=dict(in_channels=64, num_classes=10, topk=(1,)),
)
epochs = 6
train_cfg = dict(max_epochs=epochs, val_interval=epochs)
optim_wrapper = dict(optimizer=dict(lr=0.1))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', T_max=epochs, by_epoch=True, convert_to_iter_based=True),
]
