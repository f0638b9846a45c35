_base_ = './frskd_resnet18_cifar100.py'
augments = dict(type='CutMix', alpha=1.0)
loss = dict(use_soft=True)
model = dict(student=dict(train_cfg=dict(augments=augments), head=dict(loss=loss)))
