"""Families of different structure, in small, train one step by pkd: a fast part of the compatibility sweep.

The slow part reads what every family writes, and trains a config of every folder again.
"""

import importlib.util
from pathlib import Path

import pytest
import torch
from mmengine.runner.checkpoint import get_state_dict, save_checkpoint

from mmkd.family.building import build_model
from mmkd.family.sizes import pipeline_size
from mmkd.files.checkpoints import load_weights, read_checkpoint, weights_of

SWEEP = Path(__file__).parents[1] / 'benchmarks/compatibility/sweep.py'
THIN = {'backbone.depth': 18, 'backbone.base_channels': 8, 'neck.in_channels': [8, 16, 32, 64]}
NARROW = {'neck.out_channels': 16, 'bbox_head.in_channels': 16, 'bbox_head.feat_channels': 16}
NARROW_RTMDET = {
    'backbone.widen_factor': 0.125,
    'neck.in_channels': [32, 64, 128],
    'neck.out_channels': 32,
    'bbox_head.in_channels': 32,
    'bbox_head.feat_channels': 32,
}
SMALL = {
    'sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py': {
        **THIN, 'rpn_head.num_proposals': 10,
        'roi_head.num_stages': 1, 'roi_head.stage_loss_weights': [1], 'test_cfg.rcnn.max_per_img': 5,
    },
    'yolact/yolact_r50_1xb8-55e_coco.py': {**THIN, **NARROW, 'mask_head.in_channels': 16},
    'condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py': {
        **THIN, **NARROW, 'bbox_head.norm_cfg': dict(type='GN', num_groups=4),
        'mask_head.mask_feature_head.in_channels': 16, 'mask_head.mask_feature_head.feat_channels': 16,
    },
    'ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py': {},
    'detr/detr_r18_8xb2-500e_coco.py': {
        'backbone.base_channels': 8, 'neck.in_channels': [64], 'num_queries': 10, 'test_cfg.max_per_img': 5,
        'encoder.num_layers': 1, 'decoder.num_layers': 1,
    },
    'mlp_mixer/mlp-mixer-base-p16_64xb64_in1k.py': {
        'backbone.arch': dict(embed_dims=64, num_layers=2, tokens_mlp_dims=16, channels_mlp_dims=32),
        'head.in_channels': 64,
    },
    'efficientformer/efficientformer-l1_8xb128_in1k.py': {
        'backbone.arch': dict(
            layers=[1, 1, 1, 2], embed_dims=[8, 16, 24, 32], downsamples=[False, True, True, True], vit_num=1
        ),
        'head.in_channels': 32, 'head.distillation': False,
    },
    'swin_transformer_v2/swinv2-tiny-w8_16xb64_in1k-256px.py': {
        'backbone.arch': dict(embed_dims=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8],
                              extra_norm_every_n_blocks=0),
        'head.in_channels': 128,
    },
    'arcface/resnet50-arcface_8xb32_inshop.py': {},
    'lenet/lenet5_mnist.py': {},
    'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py': {},
    'ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py': {},
    'icnet/icnet_r18-d8_4xb2-80k_cityscapes-832x832.py': {},
}  # fmt: skip


@pytest.fixture(scope='module')
def sweep():
    spec = importlib.util.spec_from_file_location('sweep', SWEEP)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def toolbox_of(sweep, config):
    return next(
        t for t in sweep.SIZES if config in sweep.every_config(t).get(config.split('/')[0], ())
    )


def small(sweep, toolbox, config, changes):
    """A config in small."""
    cfg = sweep.student_of(toolbox, config)
    if 'sparse' in config:
        cfg.model.roi_head.bbox_head = cfg.model.roi_head.bbox_head[:1]
    if 'arcface' in config:
        cfg.model.image_encoder[0].update(depth=18, base_channels=8)
        cfg.model.head.in_channels = 64
    if 'backbone.arch' in changes:
        cfg.model.backbone.pop('arch')  # its name gives way to its numbers
    cfg.merge_from_dict({f'model.{key}': value for key, value in changes.items()})
    return cfg


@pytest.mark.parametrize('config', SMALL)
def test_it_trains_by_pkd(sweep, config):
    toolbox = toolbox_of(sweep, config)
    cfg = small(sweep, toolbox, config, SMALL[config])
    size = pipeline_size(cfg) if toolbox == 'mmpretrain' else 128
    assert sweep.one_step(toolbox, cfg, 'pkd', size).startswith('ok')


OTHER_METHODS = {
    'condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py': 'kd+bckd+cross_kd',
    'rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py': 'frskd',  # its head rewrites the masks that it is given
    'ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py': 'kd',  # of two maps in training
}


@pytest.mark.parametrize('config', OTHER_METHODS)
def test_it_trains_by_methods_that_run_its_heads(sweep, config):
    toolbox = toolbox_of(sweep, config)
    cfg = small(sweep, toolbox, config, SMALL.get(config, NARROW_RTMDET))
    assert sweep.one_step(toolbox, cfg, OTHER_METHODS[config], 128) == 'ok'


def own_checkpoint(sweep, toolbox, config, file):
    """Write a family's weights as a Runner does and read them as a teacher's are: how that went."""
    try:
        model = build_model(sweep.student_of(toolbox, config).model)
        save_checkpoint(dict(state_dict=get_state_dict(model)), str(file))
        model.load_state_dict(torch.load(file)['state_dict'], strict=True)
    except Exception:
        return 'no family that could be built, written and read alone'
    report = load_weights(model, weights_of(read_checkpoint(file)))
    return 'clean' if report.clean else str(report)


@pytest.mark.slow
@pytest.mark.parametrize('toolbox', ['mmdet', 'mmpretrain', 'mmseg'])
def test_what_a_family_writes_and_reads_itself_is_clean_for_us(sweep, toolbox, tmp_path):
    sweep.warm_up()
    answers = {}
    for config in sweep.folders(toolbox).values():
        given = (sweep, toolbox, config, tmp_path / 'c.pth')
        answers[config], _ = sweep.limited(own_checkpoint, given, 60, 8)
    refused = {c: a for c, a in answers.items() if a != 'clean' and not a.startswith('no family')}
    assert refused == {}
    assert len([a for a in answers.values() if a == 'clean']) > 0.7 * len(answers)


@pytest.mark.slow
@pytest.mark.parametrize('toolbox', ['mmdet', 'mmpretrain', 'mmseg'])
def test_a_config_of_every_folder_trains_as_the_page_says(sweep, toolbox):
    """By pkd: what has trained in the recorded sweep trains still."""
    sweep.warm_up()
    rows = sweep.rows_of(sweep.RESULTS / f'{toolbox}.jsonl')
    trained = {r['config'] for r in rows if r['method'] == 'pkd' and r['answer'].startswith('ok')}
    configs = [config for config in sweep.folders(toolbox).values() if config in trained]
    answers = {c: sweep.limited(sweep.attempt, (toolbox, c, 'pkd'), 240, 12)[0] for c in configs}
    assert {c: a for c, a in answers.items() if not a.startswith('ok')} == {}
    assert len(configs) > 40
