# 200 classes at their own 64 px: no published figure is of this size (those are of 32 px, *_32px.py).
# The validation images lie in folders by class (docs/own_data.md).
_base_ = '../_base_/cifar100_200e.py'
data_root = 'data/tiny-imagenet-200/'
data_preprocessor = dict(
    num_classes=200, mean=[122.461, 114.258, 101.366], std=[70.492, 68.562, 71.810], to_rgb=True
)
load = dict(type='LoadImageFromFile')
train_pipeline = [
    load,
    dict(type='RandomCrop', crop_size=64, padding=8),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [load, dict(type='PackInputs')]
images = dict(type='CustomDataset', _delete_=True, data_root=data_root)
train_dataloader = dict(dataset=dict(**images, data_prefix='train', pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(**images, data_prefix='val', pipeline=test_pipeline))
test_dataloader = val_dataloader
model = dict(
    backbone=dict(type='ResNet_CIFAR', depth=18),
    head=dict(in_channels=512, num_classes=200),
)
