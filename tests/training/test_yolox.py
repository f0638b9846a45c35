"""YOLOX by its own recipe: mosaics, a batch resized as one, averages with buffers, and its mode switch."""

import json

from mmengine.runner import Runner

import mmkd
from mmkd.datasets import CLASSES as SHAPES
from mmkd.family.building import build_model, load_config, model_config
from mmkd.files.checkpoints import read_checkpoint, weights_of

SOURCE = 'mmdet::yolox/yolox_nano_8xb8-300e_coco.py'
SIDE = 64


def recipe(work_dir, shapes):
    """The config as mmdet has it, on small drawn images, for two epochs, the second without mosaics."""
    cfg = load_config(SOURCE)
    parts = [cfg[f'{part}_dataloader'] for part in ('train', 'val', 'test')]
    for loader in parts:
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
    for split, data in (
        ('train', parts[0].dataset.dataset),
        ('val', parts[1].dataset),
        ('val', parts[2].dataset),
    ):
        data.update(
            data_root=f'{shapes}/', ann_file=f'annotations/{split}.json',
            data_prefix=dict(img=f'images/{split}/'), metainfo=dict(classes=SHAPES),
        )  # fmt: skip
    hooks = [hook for hook in cfg.custom_hooks if hook.type == 'YOLOXModeSwitchHook']
    hooks[0].num_last_epochs = 0  # it switches one epoch before
    resize_images(cfg)
    for part in ('val', 'test'):
        cfg[f'{part}_evaluator'].ann_file = f'{shapes}/annotations/val.json'
    cfg.merge_from_dict({
        'model.bbox_head.num_classes': len(SHAPES), 'train_cfg.max_epochs': 2, 'train_cfg.val_interval': 1,
        'work_dir': str(work_dir), 'log_level': 'ERROR', 'default_hooks.logger.interval': 1,
        'randomness.seed': 0, 'default_hooks.checkpoint.interval': 1,
    })  # fmt: skip
    return cfg


def resize_images(node):
    """Every size of the recipe (the pipelines', the mode switch's and the batch's) becomes a small one."""
    if isinstance(node, dict):
        for key in ('img_scale', 'scale', 'border'):
            if isinstance(node.get(key), (list, tuple)):
                node[key] = (SIDE, SIDE) if key != 'border' else (-SIDE // 2, -SIDE // 2)
        if node.get('type') == 'BatchSyncRandomResize':
            node.update(random_size_range=(64, 128), interval=1)
    for value in (
        node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    ):
        resize_images(value)


def test_it_trains_by_its_own_recipe_and_leaves_a_plain_student(shapes, tmp_path):
    plain = recipe(tmp_path / 'run', shapes)
    cfg = mmkd.distill(plain, 'pkd+kd', teacher=plain, checkpoint='untrained')
    cfg.model.teacher.config.backbone.widen_factor = 0.375
    cfg.model.teacher.config.neck.update(in_channels=[96, 192, 384])
    Runner.from_cfg(cfg).train()
    (log,) = (tmp_path / 'run').glob('*/vis_data/scalars.json')
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    rows = [row for row in rows if 'loss' in row]
    assert {row['epoch'] for row in rows if 'loss_l1' in row} == {2}  # the switch reached the head
    assert all(row['pkd/loss'] > 0 < row['kd/loss'] for row in rows)
    saved = read_checkpoint(tmp_path / 'run/epoch_2.pth')
    alone = build_model(model_config(plain))
    assert str(alone.load_state_dict(weights_of(saved))) == '<All keys matched successfully>'
    averages = {name for name in saved['ema_state_dict'] if name.startswith('module.')}
    assert averages == {f'module.{name}' for name in alone.state_dict()}
