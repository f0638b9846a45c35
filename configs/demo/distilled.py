_base_ = './student.py'
custom_imports = dict(imports=['mmkd'])
custom_hooks = [dict(type='mmkd.DistillationHook')]
sizes = dict(size='light', inject=[0, 1, 2], patch=[2, 1, 1])
dpk = dict(type='mmkd.DPK', weight=4.0, **sizes)
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    teacher=dict(config='{{ fileDirname }}/teacher.py', checkpoint='{{ fileDirname }}/teacher.pth'),
    methods=dict(dpk=dpk),
)
