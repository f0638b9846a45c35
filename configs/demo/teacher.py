# GFL with a ResNet-50 of a quarter of the usual width, trained on five times the images of the student;
# `python tools/demo.py --train-teacher` trains it and writes teacher.pth and teacher.json.
_base_ = './student.py'
model = dict(
    backbone=dict(depth=50),
    neck=dict(in_channels=[128, 256, 512]),
)
train_dataloader = dict(dataset=dict(data_root='data/demo_teacher/'))
max_epochs = 6
train_cfg = dict(max_epochs=max_epochs, val_interval=2)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=200),
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
