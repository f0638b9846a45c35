import re

import helpers as h
import pytest
import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import nn

from mmkd import InputError, Tap, Teacher
from mmkd.core.forms import EXACT, Form
from mmkd.core.method import method_names

NECK, HEAD = Tap('neck'), Tap('bbox_head')
IMAGES = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def ran(monkeypatch):
    """How many images each run of a teacher was of."""
    found, answer = [], Teacher._answer

    def noted(guide, model, form, asked, images, *rest):
        found.append(len(images))
        return answer(guide, model, form, asked, images, *rest)

    monkeypatch.setattr(Teacher, '_answer', noted)
    return found


def teacher(cache=None, taps=(NECK,), form=EXACT, config=None, seed=0, **options):
    torch.manual_seed(seed)
    guide = Teacher(config or h.retinanet(), 'untrained', cache=cache, **options)
    guide.probe(taps)
    guide.take(form)
    return guide


def answers(guide, images=IMAGES, taps=(NECK,), samples=None):
    found = guide.observe(images, samples)
    return [tensor for tap in taps for tensor in found[tap]]


def same(found, right):
    return [(a.dtype, a.stride()) for a in found] == [(b.dtype, b.stride()) for b in right] and all(
        torch.equal(a, b) for a, b in zip(found, right)
    )


@pytest.mark.parametrize(
    'form', [EXACT, Form(channels_last=True), Form(True, True, 'bf16')], ids=str
)
@pytest.mark.parametrize('taps', [(NECK,), (HEAD, NECK)], ids=len)
def test_answers_come_again_bit_for_bit_and_the_teacher_is_not_run(tmp_path, ran, form, taps):
    right = answers(teacher(None, taps, form), taps=taps)
    guide = teacher(tmp_path, taps, form)
    ran.clear()
    assert same(answers(guide, taps=taps), right)
    assert ran == [3, 3]  # once more among others
    for order in ([0, 1, 2], [2, 0, 1], [1, 1, 2]):
        live = answers(teacher(None, taps, form), IMAGES[order], taps)
        ran.clear()
        assert same(answers(guide, IMAGES[order], taps), live)
        assert ran == []


def test_a_later_training_runs_it_on_the_first_batch_alone(tmp_path, ran):
    answers(teacher(tmp_path))
    guide = teacher(tmp_path)
    ran.clear()
    answers(guide), answers(guide)
    assert ran == [3, 3]


@pytest.mark.parametrize(
    'other',
    [
        dict(seed=1),
        dict(form=Form(channels_last=True)),
        dict(taps=(NECK, HEAD)),
        dict(config=h.gfl()),
    ],
    ids=['weights', 'form', 'taps', 'config'],
)
def test_answers_are_never_of_another_teacher_form_or_tap(tmp_path, ran, other):
    answers(teacher(tmp_path))
    (folder,) = tmp_path.iterdir()
    answers(teacher(tmp_path, **other))
    assert len([*tmp_path.iterdir()]) == 2
    assert len([*folder.rglob('*')]) == len({f.name[:2] for f in folder.rglob('*/*')}) + 3


def test_another_image_padding_or_batch_is_asked_anew(tmp_path, ran):
    guide = teacher(tmp_path)
    answers(guide)
    padded = torch.nn.functional.pad(IMAGES, (0, 32))
    changed = IMAGES.clone()
    changed[1, 0, 0, 0] += 1e-6
    for images in (padded, changed, IMAGES[:2]):
        ran.clear()
        found = answers(guide, images)
        assert ran[0] == len(images)
        assert same(found, answers(teacher(), images))
    sizes = [type('Sample', (), dict(metainfo=dict(img_shape=(60, 64)))) for _ in IMAGES]
    ran.clear()
    answers(guide, samples=sizes)
    assert ran == [3]


def test_what_is_damaged_is_made_anew(tmp_path, ran):
    guide = teacher(tmp_path)
    right = answers(guide)
    files = [path for path in tmp_path.rglob('*') if path.is_file()]
    raw = files[0].read_bytes()
    files[0].write_bytes(raw[:-1] + bytes([raw[-1] ^ 255]))
    ran.clear()
    assert same(answers(guide), right)
    assert ran == [3]
    assert files[0].read_bytes() == raw
    assert same(answers(guide), right)
    assert ran == [3]


def test_beyond_the_limit_the_teacher_runs(tmp_path, ran):
    guide = teacher(tmp_path, cache_limit=10)
    right = answers(guide)
    ran.clear()
    assert same(answers(guide), right)
    assert ran == [3]
    assert not [path for path in tmp_path.rglob('*') if path.is_file()]


class Centred(BaseModel):
    """What its last module gives of an image depends on the others."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.stem, self.tap = kind, nn.Conv2d(3, 4, 3), nn.Identity()

    def forward(self, inputs, data_samples=None, mode='tensor'):
        maps = self.stem(inputs)
        kinds = dict(
            mean=maps - maps.mean(0), place=maps.mean((1, 2, 3)).cumsum(0), chance=torch.rand_like(maps),
            axis=maps.flatten(2).movedim(0, 1), all=maps.mean(),
        )  # fmt: skip
        return self.tap(kinds[self.kind])


@pytest.mark.parametrize('kind', ['mean', 'place', 'chance'])
def test_an_answer_that_is_not_of_one_image_alone_is_refused(tmp_path, kind):
    MODELS.register_module(module=Centred, force=True)
    guide = teacher(
        tmp_path, [Tap('tap')], config=dict(type='Centred', kind=kind), inputs='student'
    )
    text = h.message_of(guide.observe, IMAGES)
    assert re.search(r"cache=.*what passes at 'tap' for an image depends on the other", text)
    assert not [path for path in tmp_path.rglob('*') if path.is_file()]


@pytest.mark.parametrize(('kind', 'shape'), [('axis', '(4, 3, 3844)'), ('all', '()')])
def test_what_has_no_axis_of_images_is_refused(tmp_path, kind, shape):
    MODELS.register_module(module=Centred, force=True)
    guide = teacher(
        tmp_path, [Tap('tap')], config=dict(type='Centred', kind=kind), inputs='student'
    )
    text = h.message_of(guide.observe, IMAGES)
    assert f"'tap' has shape {shape}, and its first axis is not the 3 images" in text


def built(name, family, cache):
    kind = dict(type=f'mmkd.{name}')
    if name == 'dpk':
        kind.update(size='light', optimizer=None, ratio=0.5)
    if name == 'crd':
        kind.update(images=8, negatives=16)
    options = dict(config=h.widened(h.FAMILIES[family]()), checkpoint='untrained', cache=cache)
    model = h.distiller(h.FAMILIES[family](), options, **{name: kind}).train()
    model.distillation.check_gradients = False
    model.distillation.optimizers_installed = True
    return h.freeze_statistics(model)


@pytest.mark.parametrize('family', ['retinanet', 'classifier'])
def test_losses_of_every_method_are_those_without_a_cache(tmp_path, ran, family):
    wrong, refused, equal = {}, {}, []
    for name, kind in method_names().items():
        if not kind.needs_teacher or not kind.__module__.startswith('mmkd.'):
            continue
        try:
            models = [built(name, family, cache) for cache in (None, str(tmp_path / name))]
        except InputError as error:
            refused[name] = str(error)
            continue
        found = []
        for model in models:
            for _ in range(2):
                ran.clear()
                torch.manual_seed(0)
                losses = h.losses_of(model, family, sizes=((64, 64),) * 3)
            found.append({k: v for k, v in losses.items() if k.startswith(f'{name}/')})
        if ran or not all(torch.equal(v, found[1][k]) for k, v in found[0].items()):
            wrong[name] = (ran, found)
        equal.append(name)
    assert wrong == {}
    assert {'pkd', 'kd', 'cwd', 'at'} <= {*equal}
    cross = 'CrossKD runs parts of the teacher on what is another in every step'
    assert [name for name, text in refused.items() if 'cache' in text] == (
        ['crosskd'] if family == 'retinanet' else []
    )
    if family == 'retinanet':
        assert refused['crosskd'] == f'methods.crosskd: {cross}; leave cache of the teacher out'


def test_a_roi_head_is_asked_about_boxes_and_so_refused(tmp_path):
    options = dict(config=h.faster_rcnn(), checkpoint='untrained', cache=str(tmp_path))
    with pytest.raises(
        InputError, match=r"cache: 'roi_head\S*' is asked about the student's boxes"
    ):
        h.distiller(h.faster_rcnn(), options, kd=dict(type='mmkd.KD'))


def test_a_folder_that_cannot_be_written_into_is_named():
    text = h.message_of(teacher, '/dev/null/cache')
    assert text.startswith('the teacher: cache /dev/null/cache: cannot be written into')
