# The student of the BCCD study; the data set's folder comes as the option `data_root`.
_base_ = '../../../configs/shapes/rtmdet_pico_shapes.py'
data_root = 'data/bccd/'
names = dict(classes=('RBC', 'WBC', 'Platelets'))
scale = (256, 192)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='RandomFlip', prob=[0.25, 0.25], direction=['horizontal', 'vertical']),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
data = dict(data_root=data_root, data_prefix=dict(img=''), metainfo=names)
train_dataloader = dict(
    dataset=dict(**data, ann_file='annotations/train.json', pipeline=train_pipeline)
)
val_dataloader = dict(
    dataset=dict(**data, ann_file='annotations/test.json', pipeline=test_pipeline)
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/test.json')
test_evaluator = val_evaluator
model = dict(bbox_head=dict(num_classes=3))
max_epochs = 16
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=0,
        end=max_epochs,
        T_max=max_epochs,
        eta_min=0.0,
        convert_to_iter_based=True,
    ),
]
