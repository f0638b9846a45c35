"""Self-teachers: whose weights their heads have, what they leave behind, and the functions beside them."""

import helpers as h
import pytest
import torch
from mmcv.ops import DeformConv2d
from torch import nn

from mmkd.family.heads import logit_taps
from mmkd.family.taps import Features, Tap
from mmkd.necks.bifpn import BiFPN
from mmkd.necks.self_teacher import (
    ClassifierTeacher,
    HeadsTeacher,
    aggregated,
    detached,
    heads_of,
    joint_labels,
    kept_buffers,
    lent_heads,
    named,
    rotated,
    targets,
)


def build(family, lent):
    """A student, a self-teacher on its maps, these maps and the samples."""
    torch.manual_seed(0)
    config = h.FAMILIES[family]()
    student = h.build(config).train()
    data = student.data_preprocessor(h.raw_batch(family), True)
    maps = [m.detach() for m in student.extract_feat(data['inputs'])]
    channels = [m.shape[1] for m in maps]
    form = dict(channels=channels[0]) if len(set(channels)) == 1 else dict(width=1)
    heads = lent_heads(student) if lent else heads_of(config)
    teacher = HeadsTeacher(BiFPN(channels, **form), heads, logit_taps(student), lent)
    return student, teacher, maps, data['data_samples']


HEADS = {
    'retinanet': ['bbox_head'],
    'faster_rcnn': ['rpn_head', 'roi_head'],
    'segmentor': ['decode_head', 'auxiliary_head'],
}


@pytest.mark.parametrize('family', HEADS)
def test_lent_heads_are_the_students_and_no_part_of_the_teacher(family):
    student, teacher, maps, samples = build(family, lent=True)
    for name in HEADS[family]:
        assert getattr(teacher.heads, name) is getattr(student, name)
    assert all(name.startswith('pyramid.') for name in teacher.state_dict())
    assert all(name.startswith('pyramid.') for name, _ in teacher.named_parameters())
    losses = teacher(maps, samples).losses
    torch.stack([v for k, v in losses.items() if 'loss' in k]).sum().backward()
    touched = {n.split('.')[0] for n, p in student.named_parameters() if p.grad is not None}
    assert touched == set(HEADS[family])


class Deforming(nn.Module):
    """Heads with an operator of mmcv's that reads memory row by row."""

    def __init__(self):
        super().__init__()
        self.dcn = DeformConv2d(4, 2, 3, padding=1)

    def loss(self, maps, samples):
        return {'loss': sum(self.dcn(m, m.new_zeros(len(m), 18, *m.shape[2:])).sum() for m in maps)}


def test_operators_of_mmcv_get_maps_that_lie_row_by_row():
    maps = [torch.randn(2, 4, size, size) for size in (8, 4)]
    pyramid = BiFPN([4, 4], channels=4)
    assert not pyramid(maps)[0].is_contiguous()
    answer = HeadsTeacher(pyramid, Deforming(), [])(maps, [])
    assert all(refined.is_contiguous() for refined in answer.maps)
    assert answer.losses['loss'].isfinite()


@pytest.mark.parametrize('family', HEADS)
def test_own_heads_are_other_weights_of_the_same_shapes(family):
    student, teacher, maps, samples = build(family, lent=False)
    losses = teacher(maps, samples).losses
    torch.stack([v for k, v in losses.items() if 'loss' in k]).sum().backward()
    assert all(p.grad is None for p in student.parameters())
    for name in HEADS[family]:
        ours, theirs = (
            getattr(student, name).state_dict(),
            getattr(teacher.heads, name).state_dict(),
        )
        assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
        assert not all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_statistics_of_lent_norms_stay_those_of_the_students_maps():
    student, teacher, maps, samples = build('segmentor', lent=True)
    before = {name: buffer.clone() for name, buffer in student.named_buffers()}
    assert any('decode_head' in name for name in before)
    losses = teacher(maps, samples).losses
    torch.stack([v for k, v in losses.items() if 'loss' in k]).sum().backward()
    for name, buffer in student.named_buffers():
        assert torch.equal(buffer, before[name]), name
    student.decode_head(maps)
    assert not torch.equal(
        student.decode_head.convs[0].bn.running_mean, before['decode_head.convs.0.bn.running_mean']
    )


def test_lent_heads_follow_the_mode_of_the_teacher():
    _, teacher, maps, samples = build('retinanet', lent=True)
    for mode in (False, True):
        teacher.train(mode)
        teacher(maps, samples)
        assert teacher.heads.training is mode


def test_a_lent_view_leaves_the_student_whole():
    student = h.build(h.retinanet())
    names = list(student._modules)
    view = lent_heads(student)
    assert list(student._modules) == names
    assert set(view._modules) == set(names) - {'backbone', 'neck', 'data_preprocessor'}
    assert 'extract_feat' not in vars(student)
    given = object()
    assert view.extract_feat(given) is given


def test_buffers_come_back_after_an_error():
    norm = nn.BatchNorm1d(1)
    own = norm.running_mean

    def fail():
        with kept_buffers(norm):
            norm(torch.tensor([[2.0], [4.0]]))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert norm.running_mean is own
    assert own.item() == 0


def test_a_backward_after_it_sees_what_the_forward_saw():
    norm = nn.BatchNorm1d(1).eval()
    x = torch.tensor([[2.0], [4.0]], requires_grad=True)
    with kept_buffers(norm):
        total = norm(x).sum() + norm(x).square().sum()
    total.backward()
    assert x.grad.flatten().tolist() == pytest.approx([5.0, 9.0], rel=1e-4)


def test_rotated_turns_a_quarter_to_the_left_each():
    image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    expected = [[[2, 4], [1, 3]], [[4, 3], [2, 1]], [[3, 1], [4, 2]]]
    assert rotated(image)[:, 0].tolist() == expected


def test_soft_joint_labels_have_the_classes_share_at_the_rotation():
    soft = torch.tensor([[0.25, 0.75]])
    rows = joint_labels(soft)
    assert rows.shape == (4, 8)
    for k, row in enumerate(rows):
        assert row[k::4].tolist() == [0.25, 0.75]
        assert row.sum() == 1


def test_aggregated_is_the_mean_over_views_of_the_logits_at_their_rotation():
    rng = torch.Generator().manual_seed(0)
    logits = torch.rand(4 * 3, 4 * 5, generator=rng)
    for image in range(3):
        for label in range(5):
            views = [logits[3 * k + image, 4 * label + k] for k in range(4)]
            got = aggregated(logits)[image, label]
            assert got.item() == pytest.approx(sum(v.item() for v in views) / 4, rel=1e-6)


def test_targets_are_soft_where_the_batch_was_mixed():
    hard, soft = ({'gt_label': 1}, {'gt_label': 1, 'gt_score': 2})

    class Sample(dict):
        gt_label, gt_score = torch.tensor([1]), torch.tensor([0.5, 0.5])

    assert targets([Sample(hard), Sample(hard)]).tolist() == [1, 1]
    assert targets([Sample(soft)]).tolist() == [[0.5, 0.5]]


def test_named_sums_lists_and_keeps_statistics():
    one = torch.ones(2)
    assert named({'loss_a': [one, 2 * one], 'aux_0.loss_ce': one, 'aux_0.acc_seg': one}) == {
        'loss_a': torch.tensor(3.0), 'loss_aux_0.ce': torch.tensor(1.0), 'aux_0.acc_seg': torch.tensor(1.0),
    }  # fmt: skip


def test_detached_keeps_every_call_and_item():
    features = Features()
    for value in (1.0, 2.0):
        features.add(('head', 'output'), (torch.full((1,), value, requires_grad=True), None))
    fixed = detached(features, [Tap('head'), Tap('head', item=0)])
    assert [t.item() for t in fixed[Tap('head', item=0)]] == [1.0, 2.0]
    assert not any(t.requires_grad for t in fixed[Tap('head')])


def test_a_classifiers_answer_has_no_gradient():
    teacher = ClassifierTeacher(BiFPN([4, 8]), 3, Tap('head'))

    class Sample(dict):
        gt_label = torch.tensor([1])

    answer = teacher([torch.rand(2, 4, 4, 4), torch.rand(2, 8, 2, 2)], [Sample(), Sample()])
    assert answer.losses['loss_ce'].requires_grad
    assert not answer.answers[Tap('head')][0].requires_grad
