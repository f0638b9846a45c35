_base_ = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'
custom_imports = dict(imports=['mmkd'])
custom_hooks = [dict(type='mmkd.DistillationHook')]
dpk = dict(type='mmkd.DPK', size='r34_r18', temperature=1.0)
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    teacher=dict(config='mmpretrain::resnet/resnet34_8xb32_in1k.py'),
    methods=dict(dpk=dpk),
)
