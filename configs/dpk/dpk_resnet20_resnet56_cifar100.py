_base_ = '../cifar100/resnet20_cifar100.py'
custom_imports = dict(imports=['mmkd'])
custom_hooks = [dict(type='mmkd.DistillationHook')]
weights = dict(task_weight=1.0, logits=1.0, feature=0.3, level_weights=[0.6, 1.0])
dpk = dict(type='mmkd.DPK', size='resnet56_resnet20', temperature=1.0, **weights)
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    teacher=dict(config='mmkd::cifar100/resnet56_cifar100.py'),
    methods=dict(dpk=dpk),
)
