"""Small members of real model families, and batches for them."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, DefaultScope
from torch import nn

import mmkd  # noqa: F401
from mmkd.datasets import CLASSES as SHAPES
from mmkd.errors import InputError
from mmkd.family.building import build_model, load_config, model_config

ROOT = Path(__file__).parents[1]

CLASSES = 4
THIN = dict(depth=18, base_channels=8, init_cfg=None)
THIN_NECK = dict(in_channels=[8, 16, 32, 64], out_channels=16)


def _config(source: str, changes: dict[str, Any]) -> ConfigDict:
    cfg = load_config(source)
    cfg.merge_from_dict({'model': changes})
    return model_config(cfg)


def _basic_block(changes: dict[str, Any]) -> dict[str, Any]:
    return {**changes, 'backbone': {**THIN, **changes.get('backbone', {})}, 'neck': THIN_NECK}


def retinanet(**backbone: Any) -> ConfigDict:
    """One-stage, sigmoid."""
    head = dict(num_classes=CLASSES, in_channels=16, feat_channels=16, stacked_convs=1)
    cfg = _config(
        'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', _basic_block(dict(bbox_head=head))
    )
    width = backbone.pop('width', 8)
    cfg.backbone.update(base_channels=width, **backbone)
    cfg.neck.in_channels = [width, 2 * width, 4 * width, 8 * width]
    return cfg


def gfl() -> ConfigDict:
    """One-stage, quality focal loss."""
    head = dict(num_classes=CLASSES, in_channels=16, feat_channels=16, stacked_convs=1)
    cfg = _config('mmdet::gfl/gfl_r50_fpn_1x_coco.py', _basic_block(dict(bbox_head=head)))
    cfg.bbox_head.norm_cfg = dict(type='GN', num_groups=4)
    return cfg


def ssd_like() -> ConfigDict:
    """One-stage, softmax: a RetinaNet head with a background class."""
    cfg = retinanet()
    cfg.bbox_head.loss_cls = dict(type='CrossEntropyLoss', use_sigmoid=False)
    return cfg


def faster_rcnn(**backbone: Any) -> ConfigDict:
    """Two-stage."""
    rpn = dict(in_channels=16, feat_channels=16)
    extractor = dict(out_channels=16)
    box = dict(num_classes=CLASSES, in_channels=16, fc_out_channels=32)
    roi = dict(bbox_roi_extractor=extractor, bbox_head=box)
    changes = _basic_block(dict(rpn_head=rpn, roi_head=roi, backbone=backbone))
    cfg = _config('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', changes)
    cfg.train_cfg.rcnn.sampler.num = 32
    cfg.train_cfg.rpn_proposal.max_per_img = 50
    return cfg


def mask_rcnn() -> ConfigDict:
    """Two-stage with masks."""
    cfg = faster_rcnn()
    cfg.type = 'MaskRCNN'
    cfg.data_preprocessor.update(pad_mask=True)
    donor = _config('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', {})
    for name in ('mask_roi_extractor', 'mask_head'):
        cfg.roi_head[name] = donor.roi_head[name]
    cfg.roi_head.mask_roi_extractor.out_channels = 16
    cfg.roi_head.mask_head.update(
        num_classes=CLASSES, in_channels=16, conv_out_channels=8, num_convs=1
    )
    cfg.train_cfg.rcnn.mask_size = 28
    return cfg


def fcos() -> ConfigDict:
    """One-stage, anchor-free."""
    head = dict(num_classes=CLASSES, in_channels=16, feat_channels=16, stacked_convs=1)
    cfg = _config(
        'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', _basic_block(dict(bbox_head=head))
    )
    cfg.backbone.update(norm_cfg=dict(type='BN'), style='pytorch')
    cfg.bbox_head.norm_cfg = dict(type='GN', num_groups=4)
    return cfg


def condinst() -> ConfigDict:
    """One-stage with masks, which are made of what its dense head takes for objects."""
    head = dict(num_classes=CLASSES, in_channels=16, feat_channels=16, stacked_convs=1)
    head['norm_cfg'] = dict(type='GN', num_groups=4)
    masks = dict(mask_feature_head=dict(in_channels=16, feat_channels=16, num_stacked_convs=1))
    source = 'mmdet::condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py'
    return _config(source, _basic_block(dict(bbox_head=head, mask_head=masks)))


def rtmdet() -> ConfigDict:
    """One-stage, anchor-free, without a ResNet."""
    cfg = model_config(load_config(str(ROOT / 'configs/shapes/rtmdet_pico_shapes.py')))
    cfg.bbox_head.num_classes = CLASSES
    return cfg


def deformable_detr() -> ConfigDict:
    """Query-based, without denoising queries."""
    cfg = _config(
        'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
        dict(
            num_queries=30,
            test_cfg=dict(max_per_img=20),
            backbone=THIN,
            neck=dict(in_channels=[16, 32, 64], out_channels=32, norm_cfg=dict(num_groups=4)),
            bbox_head=dict(num_classes=CLASSES, embed_dims=32),
        ),
    )
    return _thin_transformer(cfg)


def cascade_rcnn() -> ConfigDict:
    """Three RoI stages."""
    cfg = _config(
        'mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py',
        _basic_block(dict(rpn_head=dict(in_channels=16, feat_channels=16))),
    )
    cfg.roi_head.bbox_roi_extractor.out_channels = 16
    for head in cfg.roi_head.bbox_head:
        head.update(num_classes=CLASSES, in_channels=16, fc_out_channels=32)
    for stage in cfg.train_cfg.rcnn:
        stage.sampler.num = 32
    cfg.train_cfg.rpn_proposal.max_per_img = 50
    return cfg


def cascade_mask_rcnn() -> ConfigDict:
    """Three RoI stages with masks."""
    cfg, donor = cascade_rcnn(), mask_rcnn()
    for name in ('mask_roi_extractor', 'mask_head'):
        cfg.roi_head[name] = donor.roi_head[name]
    for stage in cfg.train_cfg.rcnn:
        stage.mask_size = 28
    cfg.data_preprocessor.update(pad_mask=True)
    return cfg


def dino() -> ConfigDict:
    """Query-based, with denoising queries."""
    cfg = _config(
        'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py',
        dict(
            num_queries=30,
            test_cfg=dict(max_per_img=20),
            backbone=THIN,
            neck=dict(in_channels=[16, 32, 64], out_channels=32, norm_cfg=dict(num_groups=4)),
            bbox_head=dict(num_classes=CLASSES, embed_dims=32),
            dn_cfg=dict(group_cfg=dict(num_dn_queries=8)),
        ),
    )
    return _thin_transformer(cfg)


def detr() -> ConfigDict:
    """Query-based, softmax, queries without points."""
    return _one_map('mmdet::detr/detr_r50_8xb2-150e_coco.py')


def conditional_detr() -> ConfigDict:
    """Query-based; its decoder takes no width but 256."""
    return _one_map('mmdet::conditional_detr/conditional-detr_r50_8xb2-50e_coco.py', 256)


def dab_detr() -> ConfigDict:
    """Query-based, queries are boxes."""
    return _one_map('mmdet::dab_detr/dab-detr_r50_8xb2-50e_coco.py')


def binned_detr() -> ConfigDict:
    """A DAB-DETR whose head tells boxes by bins."""
    import binned  # noqa: F401

    cfg = dab_detr()
    cfg.bbox_head.type = 'BinnedHead'
    return cfg


def _one_map(source: str, width: int = 32) -> ConfigDict:
    changes = dict(
        num_queries=30,
        test_cfg=dict(max_per_img=20),
        backbone=THIN,
        neck=dict(in_channels=[64], out_channels=width),
        bbox_head=dict(num_classes=CLASSES, embed_dims=width),
    )
    return _thin_transformer(_config(source, changes), width)


def _thin_transformer(cfg: ConfigDict, width: int = 32) -> ConfigDict:
    layers = dict(embed_dims=width)
    for part in (cfg.encoder, cfg.decoder):
        part.num_layers = 2
        part.layer_cfg.ffn_cfg.update(**layers, feedforward_channels=64)
        for name in {'self_attn_cfg', 'cross_attn_cfg'} & part.layer_cfg.keys():
            attention = part.layer_cfg[name]
            attention.update(layers, **(dict(num_heads=4) if 'num_heads' in attention else {}))
    cfg.positional_encoding.num_feats = width // 2
    return cfg


def classifier(width: int = 8, **changes: Any) -> ConfigDict:
    """ResNet-18 with a linear head."""
    cfg = _config('mmpretrain::resnet/resnet18_8xb32_in1k.py', dict())
    cfg.backbone.update(base_channels=width, stem_channels=width)
    cfg.head.update(num_classes=CLASSES, in_channels=8 * width, topk=(1,))
    cfg.data_preprocessor.num_classes = CLASSES
    cfg.merge_from_dict(changes) if changes else None
    return cfg


def transformer(kind: str) -> ConfigDict:
    """A Swin or a ViT."""
    source = dict(
        swin='mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py',
        vit='mmpretrain::vision_transformer/vit-base-p32_64xb64_in1k.py',
    )[kind]
    cfg = _config(source, {})
    if kind == 'swin':
        cfg.backbone.arch = dict(embed_dims=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8])
        width = 128
    else:
        width = 32
        cfg.backbone.arch = dict(
            embed_dims=width, num_layers=4, num_heads=2, feedforward_channels=64
        )
        cfg.backbone.img_size = 224
    cfg.head = dict(
        type='LinearClsHead' if kind == 'swin' else 'VisionTransformerClsHead',
        num_classes=CLASSES,
        in_channels=width,
        loss=dict(type='CrossEntropyLoss'),
    )
    cfg.pop('train_cfg', None)
    cfg.data_preprocessor.num_classes = CLASSES
    return cfg


def segmentor() -> ConfigDict:
    """FCN with an auxiliary head."""
    cfg = _config('mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py', dict(pretrained=None))
    cfg.backbone.update(type='ResNet', depth=18, base_channels=8, norm_cfg=dict(type='BN'))
    for name, width in (('decode_head', 64), ('auxiliary_head', 32)):
        cfg[name].update(
            in_channels=width, channels=16, num_classes=CLASSES, norm_cfg=dict(type='BN')
        )
    cfg.data_preprocessor.size = (64, 64)
    return cfg


def widened(model: ConfigDict) -> ConfigDict:
    """A model config whose ResNet has twice the channels, so that methods have adapters to train."""
    twin = copy.deepcopy(model)
    for name in {'base_channels', 'stem_channels'} & twin.backbone.keys():
        twin.backbone[name] *= 2
    if 'head' in twin:
        twin.head.in_channels *= 2
    else:
        twin.neck.in_channels = [2 * width for width in twin.neck.in_channels]
    return twin


FAMILIES = {
    'classifier': classifier,
    'retinanet': retinanet,
    'gfl': gfl,
    'softmax': ssd_like,
    'faster_rcnn': faster_rcnn,
    'cascade_rcnn': cascade_rcnn,
    'mask_rcnn': mask_rcnn,
    'fcos': fcos,
    'rtmdet': rtmdet,
    'dino': dino,
    'deformable_detr': deformable_detr,
    'dab_detr': dab_detr,
    'binned_detr': binned_detr,
    'segmentor': segmentor,
}


TEACHERS = Path(sys.prefix) / 'teachers'
"""Where `make setup` puts timm and transformers: beside the environment, whose imports they would slow down."""


def outside(package: str) -> Any:
    """A package of other people's networks; the test is skipped where it is not installed."""
    if str(TEACHERS) not in sys.path:
        sys.path.append(str(TEACHERS))
    return pytest.importorskip(package, reason=f'{package} is not installed; make setup does it')


def build(config: Any) -> nn.Module:
    """A model with its own initialisation."""
    model = build_model(config)
    model.init_weights()
    return model


def shipped(config: str) -> nn.Module:
    """The model of a config that is shipped, without its weights."""
    return build_model(model_config(load_config(ROOT / 'configs' / config)))


def millions(config: str) -> float:
    """Parameters of a shipped config's model, as papers print them."""
    return round(sum(p.numel() for p in shipped(config).parameters()) / 1e6, 2)


def distiller(
    student: Any, teacher: Any = None, seed: int = 0, labels: bool = True, **methods: Any
) -> nn.Module:
    """A Distiller of a student and a teacher (a model config, or options) with some methods."""
    torch.manual_seed(seed)
    options = teacher
    if teacher is not None and 'type' in teacher:
        options = dict(config=teacher, checkpoint='untrained')
    config = dict(type='mmkd.Distiller', student=student, methods=methods, labels=labels)
    if options is not None:
        config['teacher'] = options
    with DefaultScope.overwrite_default_scope('mmkd'):
        model = MODELS.build(config)
    model.init_weights()
    return model


def freeze_statistics(model: nn.Module) -> nn.Module:
    """BatchNorm in eval mode, all else in training mode."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    return model


def raw_batch(
    family: str, sizes: tuple[tuple[int, int], ...] = ((64, 64), (56, 48)), seed: int = 1
) -> dict:
    """What a data loader gives: uint8 images and samples with labels."""
    rng = torch.Generator().manual_seed(seed)
    if family in ('classifier', 'segmentor'):
        sizes = (sizes[0],) * len(sizes)
    images = [torch.randint(0, 256, (3, *size), generator=rng, dtype=torch.uint8) for size in sizes]
    if family == 'classifier':
        from mmpretrain.structures import DataSample

        samples = [
            DataSample(metainfo=dict(sample_idx=i)).set_gt_label(i % CLASSES)
            for i in range(len(sizes))
        ]
        return dict(inputs=torch.stack(images), data_samples=samples)
    maker = _segmentation_sample if family == 'segmentor' else _detection_sample
    samples = [maker(size, rng) for size in sizes]
    if family == 'mask_rcnn':
        for sample, size in zip(samples, sizes):
            sample.gt_instances.masks = _rectangles(sample.gt_instances.bboxes, size)
    return dict(inputs=images, data_samples=samples)


def _segmentation_sample(size: tuple[int, int], rng: torch.Generator) -> Any:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size))
    sample.gt_sem_seg = PixelData(data=torch.randint(0, CLASSES, (1, *size), generator=rng))
    return sample


def _detection_sample(size: tuple[int, int], rng: torch.Generator) -> Any:
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    height, width = size
    corners = torch.rand(3, 2, generator=rng) * torch.tensor([width * 0.5, height * 0.5])
    extent = 8 + torch.rand(3, 2, generator=rng) * torch.tensor([width * 0.4, height * 0.4])
    labels = torch.randint(0, CLASSES, (3,), generator=rng)
    meta = dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0), img_id=0)
    sample = DetDataSample(metainfo=meta)
    boxes = torch.cat([corners, corners + extent], 1)
    sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
    sample.ignored_instances = InstanceData(bboxes=boxes[:0], labels=labels[:0])
    return sample


def _rectangles(boxes: torch.Tensor, size: tuple[int, int]) -> Any:
    """Every box filled, as masks."""
    from mmdet.structures.mask import BitmapMasks

    masks = np.zeros((len(boxes), *size), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
        mask[y1:y2, x1:x2] = 1
    return BitmapMasks(masks, *size)


def losses_of(
    model: nn.Module, family: str, *, shares: bool = False, **options: Any
) -> dict[str, Any]:
    """One training forward; gradient shares, which are measured now and then, only on request."""
    data = model.data_preprocessor(raw_batch(family, **options), True)
    found = model(**data, mode='loss')
    return {k: v for k, v in found.items() if shares or not k.endswith('/share')}


def runner_config(family: str, work_dir: Any, data: Any, **changes: Any) -> Config:
    """A Runner's config that trains a small model on the drawn data: 2 epochs of 4 iterations."""
    base = 'classification' if family == 'classifier' else 'detection'
    cfg = Config.fromfile(ROOT / f'configs/_base_/datasets/shapes_{base}.py')
    runtime = Config.fromfile(ROOT / 'configs/_base_/default_runtime.py')
    cfg.merge_from_dict(runtime.to_dict())
    model = FAMILIES[family]()
    scope = model.pop('_scope_')
    cfg.merge_from_dict(
        dict(
            model=model,
            default_scope=scope,
            work_dir=str(work_dir),
            log_level='ERROR',
            default_hooks=dict(checkpoint=dict(max_keep_ckpts=3)),
            train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=2, val_interval=1),
            val_cfg=dict(type='ValLoop'),
            test_cfg=dict(type='TestLoop'),
            optim_wrapper=dict(
                type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9)
            ),
        )
    )
    cfg.visualizer = dict(type='Visualizer', vis_backends=[])
    _set_classes(cfg.model)
    for test in (
        cfg.model.get('test_cfg') or {},
        (cfg.model.get('test_cfg') or {}).get('rcnn', {}),
    ):
        if 'score_thr' in test:
            test.update(score_thr=0.0, max_per_img=10)
    for part in ('train', 'val', 'test'):
        loader = cfg[f'{part}_dataloader']
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        loader.pop('batch_sampler', None)
        loader.drop_last = part == 'train'
        loader.dataset.data_root = f'{data}/'
        if f'{part}_evaluator' in cfg and 'ann_file' in cfg[f'{part}_evaluator']:
            cfg[f'{part}_evaluator'].ann_file = f'{data}/annotations/val.json'
    cfg.merge_from_dict(changes)
    return cfg


def _set_classes(model: ConfigDict) -> None:
    """The drawn data has more classes than the fake batches."""
    for head in (
        model.get('bbox_head'),
        model.get('head'),
        model.get('roi_head', {}).get('bbox_head'),
    ):
        if head is not None:
            head.num_classes = len(SHAPES)


def detection(data: Path, workers: int = 0) -> Config:
    """One epoch of a plain detector on a data set."""
    cfg = runner_config('retinanet', data.parent / 'work', data)
    cfg.train_cfg.max_epochs, cfg.train_dataloader.num_workers = 1, workers
    return cfg


def message_of(function: Callable[..., Any], *args: Any) -> str:
    """The message with which a call answers wrong input."""
    with pytest.raises(InputError) as error:
        function(*args)
    text = str(error.value)
    assert 'Traceback' not in text
    return text
