_base_ = './student.py'
custom_imports = dict(imports=['mmkd'])
custom_hooks = [dict(type='mmkd.DistillationHook')]
dpk = dict(
    type='mmkd.DPK',
    size='light',
    inject=[0, 1, 2],
    patch=[2, 1, 1],
    optimizer=dict(lr=1e-3, fused=True),
)
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    teacher=dict(config='{{ fileDirname }}/teacher.py', checkpoint='{{ fileDirname }}/teacher.pth'),
    methods=dict(dpk=dict(weight=4.0, **dpk)),
)
