_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py']
custom_imports = dict(imports=['mmkd'])
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    methods=dict(sfr=dict(type='mmkd.SFR')),
)
