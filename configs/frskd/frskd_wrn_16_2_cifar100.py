# The norm that follows a stage is the first of the next one: with it the maps are the authors'.
_base_ = '../cifar100/wrn_16_2_cifar100_200e.py'
custom_imports = dict(imports=['mmkd'])
tap = ['backbone.stages.1.0.norm1', 'backbone.stages.2.0.norm1', 'backbone.stages.2']
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    methods=dict(frskd=dict(type='mmkd.FRSKD', tap=tap)),
)
