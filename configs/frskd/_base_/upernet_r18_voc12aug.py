# The same model; its pretrained backbone is named where the other toolboxes name theirs, and its crops
# are padded to their size, which the original leaves out.
_base_ = ['mmseg::upernet/upernet_r18_4xb4-40k_voc12aug-512x512.py']
data_preprocessor = dict(size=(512, 512))
weights = dict(type='Pretrained', checkpoint='open-mmlab://resnet18_v1c')
model = dict(pretrained=None, backbone=dict(init_cfg=weights), data_preprocessor=data_preprocessor)
