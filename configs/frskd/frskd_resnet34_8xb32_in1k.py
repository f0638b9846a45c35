_base_ = ['mmpretrain::resnet/resnet34_8xb32_in1k.py']
custom_imports = dict(imports=['mmkd'])
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    methods=dict(frskd=dict(type='mmkd.FRSKD')),
)
