_base_ = '../coco/faster-rcnn_r18_fpn_2x_coco.py'
custom_imports = dict(imports=['mmkd'])
custom_hooks = [dict(type='mmkd.DistillationHook')]
fgd = dict(alpha=2e-5, beta=2.5e-5, gamma=2e-5, lam=2e-7)
dpk = dict(type='mmkd.DPK', size='faster_rcnn', fgd=fgd, inherit=['neck', 'rpn_head', 'roi_head'])
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    teacher=dict(config='mmdet::faster_rcnn/faster-rcnn_r101_fpn_2x_coco.py'),
    methods=dict(dpk=dpk),
)
