"""Label smoothing as a term: with it, a cross entropy is that of smoothed labels."""

import pytest
import torch
import torch.nn.functional as F

from mmkd.losses.smoothing import LabelLoss


def rates(logits, target, largest):
    return largest * (logits.softmax(1) * target).sum(1)


@pytest.mark.parametrize('soft', [False, True])
@pytest.mark.parametrize('class_weight', [None, [0.5, 2.0, 1.0]])
@pytest.mark.parametrize(
    'rows', [(), (torch.tensor([1.0, 0.0, 2.0, 1.0, 0.5]),), (7,), (torch.ones(5), 7.0)]
)
def test_with_the_term_a_cross_entropy_is_that_of_smoothed_labels(soft, class_weight, rows):
    logits = torch.randn(5, 3)
    labels = torch.tensor([0, 1, 2, 1, 0])
    y = torch.rand(5, 3).softmax(1) if soft else F.one_hot(labels, 3).float()
    loss = LabelLoss(0.5, class_weight)
    grown, rate = loss.smoothed(0.2, logits, y if soft else labels, *rows)
    assert torch.allclose(rate, rates(logits, y, 0.2))
    scale = torch.ones(3) if class_weight is None else torch.tensor(class_weight)
    weights = next((r for r in rows if isinstance(r, torch.Tensor)), torch.ones(5))
    count = next((r for r in rows if not isinstance(r, torch.Tensor)), 5)

    def total(target):
        return -0.5 / count * (weights[:, None] * scale * target * logits.log_softmax(1)).sum()

    smooth = (1 - rate[:, None]) * y + rate[:, None] / 3
    assert grown.item() == pytest.approx((total(smooth) - total(y)).item(), rel=1e-4, abs=1e-7)


def test_of_the_certain_it_is_classic_smoothing_and_of_the_wrong_none():
    logits, labels = torch.tensor([[60.0, 0.0, 0.0], [0.0, 60.0, 0.0]]), torch.tensor([0, 0])
    grown, rate = LabelLoss().smoothed(0.2, logits, labels)
    assert rate.tolist() == pytest.approx([0.2, 0.0])
    plain = F.cross_entropy(logits[:1], labels[:1])
    classic = F.cross_entropy(logits[:1], labels[:1], label_smoothing=0.2)
    assert 2 * grown.item() == pytest.approx((classic - plain).item(), rel=1e-6)


def test_rows_without_an_object_are_left_alone():
    logits, labels = torch.randn(4, 3), torch.tensor([0, 2, -1, 1])
    loss = LabelLoss(background=2)
    grown, rate = loss.smoothed(
        0.2, logits, labels.clamp_min(0), torch.tensor([1.0, 1.0, 0.0, 1.0]), 4
    )
    alone = [LabelLoss().smoothed(0.2, logits[i : i + 1], labels[i : i + 1]) for i in (0, 3)]
    assert grown.item() == pytest.approx(sum(value.item() for value, _ in alone) / 4, rel=1e-5)
    assert len(rate) == 3  # rows 0, 2 (whose weight is 0) and 3
    none, rate = loss.smoothed(0.2, logits, torch.full((4,), 2))
    assert (none.item(), len(rate)) == (0.0, 0)
    assert LabelLoss().smoothed(0.2, logits[:0], labels[:0])[0].item() == 0


def test_finite_differences_confirm_the_gradient_with_the_rate_held_fast():
    logits = torch.randn(3, 4, dtype=torch.double).float().requires_grad_()
    labels = torch.tensor([3, 0, 1])
    grown, _ = LabelLoss(2.0).smoothed(0.3, logits, labels)
    (gradient,) = torch.autograd.grad(grown, logits)
    fixed = logits.detach().double()
    held = rates(fixed, F.one_hot(labels, 4), 0.3)

    def value(x):
        surprise = -x.log_softmax(1)
        return (2 / 3 * held * (surprise.mean(1) - surprise[range(3), labels])).sum().item()

    for place in range(12):
        step = torch.zeros(12, dtype=torch.double)
        step[place] = 1e-5
        slope = (value(fixed + step.view(3, 4)) - value(fixed - step.view(3, 4))) / 2e-5
        assert gradient.flatten()[place].item() == pytest.approx(slope, rel=1e-3, abs=1e-6)
