_base_ = '../shapes/rtmdet_pico_shapes.py'
custom_imports = dict(imports=['mmkd'])
custom_hooks = [dict(type='mmkd.DistillationHook')]
weights = 'work_dirs/demo/teacher/epoch_6.pth'
dpk = dict(type='mmkd.DPK', size='light', optimizer=dict(lr=1e-3))
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    teacher=dict(config='mmkd::shapes/rtmdet_tiny_shapes.py', checkpoint=weights),
    methods=dict(dpk=dpk),
)
