# The recipe of the self-distillation literature: 200 epochs, two steps, no Nesterov momentum.
_base_ = [
    '../_base_/models/cifar100_classifier.py',
    '../_base_/datasets/cifar100_bs64.py',
    '../_base_/schedules/cifar100_240e.py',
    '../_base_/default_runtime.py',
]
default_scope = 'mmpretrain'
custom_imports = dict(imports=['mmkd'])
visualizer = dict(type='UniversalVisualizer')
model = dict(
    backbone=dict(type='ResNet_CIFAR', depth=18),
    head=dict(in_channels=512),
)
train_dataloader = dict(batch_size=128)
train_cfg = dict(max_epochs=200)
optim_wrapper = dict(optimizer=dict(lr=0.1, nesterov=False, weight_decay=0.0001))
param_scheduler = dict(milestones=[100, 150])
auto_scale_lr = dict(base_batch_size=128)
