_base_ = './_base_/upernet_r18_voc12aug.py'
custom_imports = dict(imports=['mmkd'])
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    methods=dict(frskd=dict(type='mmkd.FRSKD', deep_supervision=True)),
)
