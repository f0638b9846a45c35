_base_ = './frskd_resnet18_cifar100.py'
augments = dict(type='Mixup', alpha=0.2)
loss = dict(use_soft=True)
model = dict(student=dict(train_cfg=dict(augments=augments), head=dict(loss=loss)))
