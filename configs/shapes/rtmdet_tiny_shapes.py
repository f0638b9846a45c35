_base_ = [
    '../_base_/models/rtmdet_shapes.py',
    '../_base_/datasets/shapes_detection.py',
    '../_base_/schedules/shapes.py',
    '../_base_/default_runtime.py',
]
