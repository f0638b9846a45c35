# Faster R-CNN on the backbone and neck of YOLOX-nano, on BCCD; their weights of COCO come by `load_from`.
_base_ = './bccd_faster_half.py'
channels = [64, 128, 256]
width = channels[0]
model = dict(
    backbone=dict(widen_factor=0.25),
    neck=dict(in_channels=channels, out_channels=width),
    rpn_head=dict(in_channels=width, feat_channels=width),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=width),
        bbox_head=dict(in_channels=width, fc_out_channels=4 * width),
    ),
)
