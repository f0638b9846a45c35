"""PS-KD on a real classifier: labels softened by what it said before, by plain loops."""

import helpers as h
import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from resumable import config, run

from mmkd import InputError

PS_KD = dict(type='mmkd.PSKD')


@pytest.fixture
def at():
    """Sets how far training is, in hundredths."""
    hub = MessageHub.get_current_instance()
    hub.update_info('max_iters', 100)
    yield lambda iteration: hub.update_info('iter', iteration)
    hub.update_info('max_iters', 0)


def test_labels_then_what_was_said_before(at):
    model = h.distiller(h.classifier(), ps=dict(PS_KD, images=5, most=0.5))
    h.freeze_statistics(model.train())
    plain = h.freeze_statistics(h.build(h.classifier()).train())
    plain.load_state_dict(model.state_dict())
    batch = model.data_preprocessor(h.raw_batch('classifier'), True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    past = None
    for iteration in (40, 80):
        at(iteration)
        plain.load_state_dict(model.state_dict())
        with torch.no_grad():
            logits = plain(batch['inputs'], mode='tensor')
            z = (logits[0] if isinstance(logits, tuple) else logits).double()
            own = plain(**batch, mode='loss')['loss'].item()
        if z.shape[1] != h.CLASSES:  # the features before the head
            z = plain.head.fc(z.float()).detach().double()
        log = torch.log_softmax(z, 1).numpy()
        targets = np.eye(h.CLASSES)[[0, 1]] if past is None else past
        share = 0.5 * iteration / 100
        losses = model(**batch, mode='loss')
        right = -share * (targets * log).sum(1).mean()
        assert losses['ps/loss'].item() == pytest.approx(right, rel=1e-4)
        assert losses['loss'].item() == pytest.approx((1 - share) * own, rel=1e-4)
        past = np.exp(log)
        optimizer.zero_grad()
        model.parse_losses(losses)[0].backward()
        optimizer.step()


def test_before_anything_was_said_it_is_the_plain_loss(at):
    at(50)
    found = []
    for methods in ({}, dict(ps=dict(PS_KD, images=5))):
        torch.manual_seed(0)
        model = h.distiller(h.classifier(), **methods) if methods else h.build(h.classifier())
        if found:
            model.load_state_dict(found[0].state_dict(), strict=False)
        found.append(h.freeze_statistics(model.train()))
    totals = [m.parse_losses(h.losses_of(m, 'classifier'))[0].item() for m in found]
    assert totals[0] == pytest.approx(totals[1], rel=1e-5)


def test_it_remembers_every_image_of_the_training_data(shapes, tmp_path):
    trained = run(config(shapes, methods=dict(ps=PS_KD)), tmp_path)
    past = trained.model.distillation.ps.past
    assert past.shape[0] == len(trained.train_dataloader.dataset) == 8
    torch.testing.assert_close(past.sum(1), torch.ones(8))


def test_other_heads_and_missing_labels_are_answered():
    with pytest.raises(InputError, match='PSKD is for the logits of a classifier, the student'):
        h.distiller(h.retinanet(), ps=PS_KD)
    cfg = h.classifier()
    cfg.head = dict(
        type='MultiLabelLinearClsHead', num_classes=h.CLASSES, in_channels=64,
        loss=dict(type='CrossEntropyLoss', use_sigmoid=True),
    )  # fmt: skip
    with pytest.raises(InputError, match='PSKD is for softmax classes'):
        h.distiller(cfg, ps=PS_KD)
    with pytest.raises(InputError, match='PSKD softens the labels'):
        h.distiller(h.classifier(), labels=False, ps=PS_KD)
    model, other = (h.distiller(h.classifier(), ps=dict(PS_KD, images=n)).train() for n in (5, 6))
    h.losses_of(model, 'classifier')
    other.distillation.ps.resume_training(model.distillation.ps.training_state())
    with pytest.raises(InputError, match='PSKD: images=6: the checkpoint remembers 5 images'):
        h.losses_of(other, 'classifier')
