# YOLOX-nano, on BCCD; with the weights of COCO if they are given by `load_from`.
_base_ = './bccd_yolox_half.py'
channels = [64, 128, 256]
model = dict(
    backbone=dict(widen_factor=0.25),
    neck=dict(in_channels=channels, out_channels=channels[0]),
    bbox_head=dict(in_channels=channels[0], feat_channels=channels[0]),
)
