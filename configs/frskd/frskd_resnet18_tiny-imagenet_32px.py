_base_ = ['../tiny_imagenet/resnet18_tiny-imagenet_32px.py']
custom_imports = dict(imports=['mmkd'])
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    methods=dict(frskd=dict(type='mmkd.FRSKD')),
)
