# A reduced form of SLA: only the self-teacher has joint labels (docs/methods/frskd.md).
_base_ = '../cifar100/resnet18_cifar100.py'
custom_imports = dict(imports=['mmkd'])
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    methods=dict(frskd=dict(type='mmkd.FRSKD', rotations=True)),
)
