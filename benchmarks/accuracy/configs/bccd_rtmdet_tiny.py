# The teacher of the BCCD study.
_base_ = './bccd_rtmdet_pico_30e.py'
channels = [96, 192, 384]
model = dict(
    backbone=dict(widen_factor=0.375),
    neck=dict(in_channels=channels, out_channels=channels[0]),
    bbox_head=dict(in_channels=channels[0], feat_channels=channels[0]),
)
