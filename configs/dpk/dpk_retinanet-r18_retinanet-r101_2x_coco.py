_base_ = '../coco/retinanet_r18_fpn_2x_coco.py'
custom_imports = dict(imports=['mmkd'])
custom_hooks = [dict(type='mmkd.DistillationHook')]
fgd = dict(alpha=2e-3, beta=5e-4, gamma=5e-4, lam=5e-6)
dpk = dict(type='mmkd.DPK', size='retinanet', fgd=fgd, inherit=['neck', 'bbox_head'])
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    teacher=dict(config='mmdet::retinanet/retinanet_r101_fpn_2x_coco.py'),
    methods=dict(dpk=dpk),
)
