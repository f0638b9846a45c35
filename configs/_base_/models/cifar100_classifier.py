# Any backbone under a linear head; a config names the backbone and the head's `in_channels`.
model = dict(
    type='ImageClassifier',
    backbone=dict(),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=100,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
        topk=(1, 5),
    ),
)
