"""Real Runners on drawn data: checkpoints, averaged copies, hooks, test-time augmentation."""

import copy

import helpers as h
import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

import mmkd
from mmkd.config.conversion import plain_config
from mmkd.family.building import build_model

METHODS = dict(
    pkd=dict(type='mmkd.PKD'), fitnet=dict(type='mmkd.FitNet', tap='backbone.layer3', weight=1.0)
)
"""With an adapter, whose parameters are in every checkpoint."""


def distilled(cfg, methods=METHODS, **teacher):
    options = dict(config=h.widened(cfg.model), checkpoint='untrained', **teacher)
    cfg = copy.deepcopy(cfg)
    cfg.model = dict(type='mmkd.Distiller', student=cfg.model, teacher=options, methods=methods)
    mmkd.distill.__globals__['add_hook'](cfg)
    return cfg


def weights(runner):
    state = runner.model.state_dict()
    return {k: v.clone() for k, v in state.items() if not k.startswith('distillation.')}


def predictions(model, loader, scope):
    init_default_scope(scope)
    model.eval()
    with torch.no_grad():
        results = [sample for batch in loader for sample in model.test_step(batch)]
    return [
        sample.pred_score if scope == 'mmpretrain' else torch.cat(
            [sample.pred_instances.bboxes, sample.pred_instances.scores[:, None]], 1
        )
        for sample in results
    ]  # fmt: skip


@pytest.mark.parametrize('family', ['classifier', 'retinanet', 'faster_rcnn'])
def test_at_weight_zero_the_runner_trains_the_student_bit_for_bit(family, tmp_path, shapes):
    cfg = h.runner_config(family, tmp_path / 'a', shapes)
    torch.manual_seed(0)
    plain = Runner.from_cfg(cfg)
    plain.train()
    zero = distilled(cfg, dict(fitnet=dict(type='mmkd.FitNet', weight=0.0)))
    zero.work_dir = str(tmp_path / 'b')
    ours = Runner.from_cfg(zero)
    ours.train()
    assert ours.iter == plain.iter >= 5
    expected, got = weights(plain), weights(ours)
    assert expected.keys() == got.keys()
    assert all(torch.equal(got[name], expected[name]) for name in expected)


@pytest.mark.parametrize('family', ['classifier', 'retinanet'])
@pytest.mark.parametrize('buffers', [False, True])
def test_every_checkpoint_is_a_plain_students(family, buffers, tmp_path, shapes):
    best = 'accuracy/top1' if family == 'classifier' else 'coco/bbox_mAP'
    ema = dict(type='EMAHook', momentum=0.3, update_buffers=buffers)
    cfg = h.runner_config(
        family, tmp_path, shapes,
        **{'default_hooks.checkpoint.save_best': best, 'default_hooks.checkpoint.rule': 'greater'},
        custom_hooks=[ema],
    )  # fmt: skip
    scope = cfg.default_scope
    runner = Runner.from_cfg(distilled(cfg))
    runner.train()
    assert list(runner.model.distillation.parameters())
    files = sorted(path for path in tmp_path.glob('*.pth'))
    assert {'epoch_1.pth', 'epoch_2.pth'} < {file.name for file in files}
    assert any(file.name.startswith('best_') for file in files)
    distiller = runner.model
    for file in files:
        content = torch.load(file, weights_only=False)
        plain = build_model(dict(cfg.model, _scope_=scope))
        keys = {k for k in content['state_dict'] if not k.startswith('distillation.')}
        assert keys == set(plain.state_dict())
        averaged = {k.removeprefix('module.') for k in content['ema_state_dict']} - {'steps'}
        assert averaged == keys
        report = plain.load_state_dict(content['state_dict'], strict=False)
        assert report.missing_keys == []
        assert all(key.startswith('distillation.') for key in report.unexpected_keys)
        distiller.load_state_dict(content['state_dict'])
        ours = predictions(distiller, runner.val_dataloader, scope)
        theirs = predictions(plain, runner.val_dataloader, scope)
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs))


def test_an_averaged_copy_holds_the_student_alone(tmp_path, shapes):
    cfg = h.runner_config('retinanet', tmp_path, shapes, custom_hooks=[dict(type='EMAHook')])
    runner = Runner.from_cfg(distilled(cfg))
    runner.train()
    (hook,) = [hook for hook in runner.hooks if type(hook).__name__ == 'EMAHook']
    twin = hook.ema_model.module
    assert not hasattr(twin, 'distillation')
    own = {n for n, _ in runner.model.named_parameters() if not n.startswith('distillation.')}
    assert {n for n, _ in twin.named_parameters()} == own


def test_metrics_keep_their_names_and_values(tmp_path, shapes):
    cfg = h.runner_config('retinanet', tmp_path, shapes)
    runner = Runner.from_cfg(distilled(cfg))
    runner.train()
    ours = runner.val()
    plain = copy.deepcopy(cfg)
    plain.load_from = str(tmp_path / 'epoch_2.pth')
    theirs = Runner.from_cfg(plain).test()
    assert ours == theirs
    assert 'coco/bbox_mAP' in ours


def test_test_time_augmentation_is_the_students(tmp_path, shapes):
    cfg = h.runner_config('retinanet', tmp_path, shapes)
    runner = Runner.from_cfg(distilled(cfg))
    torch.nn.init.constant_(runner.model.bbox_head.retina_cls.bias, 0.0)
    pipeline = copy.deepcopy(cfg.test_dataloader.dataset.pipeline)
    flips = [dict(type='RandomFlip', prob=p) for p in (1.0, 0.0)]
    pack = dict(pipeline[-1], meta_keys=[*pipeline[-1].meta_keys, 'flip', 'flip_direction'])
    pipeline[-1] = dict(type='TestTimeAug', transforms=[flips, [pack]])
    results = []
    for model in (cfg.model, distilled(cfg).model):
        tta = copy.deepcopy(cfg)
        nms = dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
        tta.model = dict(type='DetTTAModel', tta_cfg=nms, module=model)
        tta.test_dataloader.dataset.pipeline = pipeline
        built = Runner.from_cfg(tta)
        state = {k: v for k, v in runner.model.state_dict().items() if 'distillation' not in k}
        built.model.module.load_state_dict(state, strict=False)
        built.model.eval()
        with torch.no_grad():
            samples = [s for batch in built.test_dataloader for s in built.model.test_step(batch)]
        results.append([s.pred_instances for s in samples])
    assert sum(len(r) for r in results[0]) > 0
    for a, b in zip(*results):
        assert torch.equal(a.bboxes, b.bboxes)
        assert torch.equal(a.scores, b.scores)


def test_hooks_reach_the_students_parts(tmp_path, shapes):
    """mmdet's NumClassCheckHook walks all modules; others reach for attributes."""
    reached = []

    from mmengine.hooks import Hook
    from mmengine.registry import HOOKS

    @HOOKS.register_module(force=True)
    class Reaching(Hook):
        def before_train_epoch(self, runner):
            runner.model.bbox_head.use_l1 = True
            reached.append(runner.model.bbox_head.num_classes)

    hooks = [dict(type='NumClassCheckHook'), dict(type='Reaching')]
    cfg = h.runner_config('retinanet', tmp_path, shapes, custom_hooks=hooks)
    runner = Runner.from_cfg(distilled(cfg))
    runner.train()
    assert reached == [6, 6]
    assert runner.model.bbox_head.use_l1


def test_paramwise_options_see_plain_names(tmp_path, shapes):
    cfg = h.runner_config('retinanet', tmp_path, shapes)
    cfg.optim_wrapper.paramwise_cfg = dict(custom_keys={'backbone.layer4': dict(lr_mult=0.1)})
    plain, ours = Runner.from_cfg(cfg), Runner.from_cfg(distilled(cfg))
    rates = []
    for runner in (plain, ours):
        wrapper = runner.build_optim_wrapper(runner.optim_wrapper)  # one group a parameter
        names = {id(p): n for n, p in runner.model.named_parameters()}
        assert all(len(g['params']) == 1 for g in wrapper.optimizer.param_groups)
        rates.append({names[id(g['params'][0])]: g['lr'] for g in wrapper.optimizer.param_groups})
    own = {name: rates[1].pop(name) for name in [*rates[1]] if name.startswith('distillation.')}
    assert set(own.values()) == {0.01}
    assert rates[0] == rates[1]
    assert rates[0]['backbone.layer4.0.conv1.weight'] == pytest.approx(0.001)


def test_the_teacher_is_the_same_after_training_bit_for_bit(tmp_path, shapes):
    cfg = distilled(h.runner_config('retinanet', tmp_path, shapes))
    file = tmp_path / 't.pth'
    torch.save(build_model(dict(cfg.model.teacher.config, _scope_='mmdet')).state_dict(), file)
    cfg.model.teacher.checkpoint = str(file)
    runner = Runner.from_cfg(cfg)
    runner.train()
    state = runner.model.distillation.teachers['teacher'].model.state_dict()
    before = torch.load(file, weights_only=True)
    assert all(torch.equal(v, before[k]) for k, v in state.items())
    saved = torch.load(tmp_path / 'epoch_2.pth', weights_only=False)
    assert not [k for k in saved['state_dict'] if 'teacher' in k]


def test_a_written_config_trains_again(tmp_path, shapes):
    cfg = distilled(h.runner_config('retinanet', tmp_path, shapes))
    cfg.dump(tmp_path / 'config.py')
    again = mmkd.family.building.load_config(tmp_path / 'config.py')
    again.train_cfg.max_epochs = 1
    Runner.from_cfg(again).train()
    assert plain_config(again).model.type == 'RetinaNet'
