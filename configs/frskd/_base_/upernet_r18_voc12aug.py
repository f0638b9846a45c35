# The same model; its pretrained backbone is named where the other toolboxes name theirs.
_base_ = ['mmseg::upernet/upernet_r18_4xb4-40k_voc12aug-512x512.py']
weights = dict(type='Pretrained', checkpoint='open-mmlab://resnet18_v1c')
model = dict(pretrained=None, backbone=dict(init_cfg=weights))
