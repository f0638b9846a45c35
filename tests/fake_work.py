"""What tests run on the fake device, in a process of its own: none can be added once autograd has run."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from typing import Any

import helpers as h
import torch
from fake_gpu import DEVICE, FakeGPU, fake_gpu, to_fake
from mmengine.logging import MessageHub

from mmkd import InputError
from mmkd.core.method import FeatureMethod, method_names
from mmkd.core.readings import Readings
from mmkd.methods.dpk.ratios import CKARatio

ROOT = str(h.ROOT / 'mmkd')
ON = dict(type='Piecewise', points=[(0, 1.0), (1, 1.0)])
"""What begins late is looked at as it is at the end of training."""
OPTIONS: dict[str, dict[str, Any]] = {
    'dpk': dict(size='light'),
    'crd': dict(images=8, negatives=16),
    'pskd': dict(images=8),
    'frskd': dict(alpha=ON, beta=ON),
    'sfr': dict(feature=ON),
}
WARM_UP = 3
SIZES = ((64, 64), (56, 48), (64, 56))
"""Three images, because some methods compare images with each other."""


def apart() -> ProcessPoolExecutor:
    """One process for all that a module runs on the device."""
    return ProcessPoolExecutor(1, get_context('spawn'))


def place() -> str:
    """The file of mmkd or of a toolbox that calls an operator."""
    for frame in reversed(traceback.extract_stack()):
        if frame.filename.startswith(ROOT) or '/site-packages/mm' in frame.filename:
            return f'{frame.filename.removeprefix(str(h.ROOT) + "/")}:{frame.lineno}'
    return ''


def model_of(families: Iterable[str], name: str) -> tuple[str, Any]:
    """The first of some families that a method fits, and a small student with it; None if it fits none."""
    kind = method_names()[name]
    for family in families:
        guide = h.widened(h.FAMILIES[family]()) if kind.needs_teacher else None
        method = dict(type=f'mmkd.{name}', **OPTIONS.get(name, {}))
        with suppress(InputError):
            model = h.distiller(h.FAMILIES[family](), guide, **{name: method})
            model.distillation.optimizers_installed = True
            model.distillation.shares.every = 1  # a measurement waits no more than other steps
            return family, model.train()
    return '', None


def train(model: Any, family: str, mode: Any, steps: int) -> Counter[str]:
    """Train some steps; the waits of the last."""
    hub = MessageHub.get_current_instance()
    hub.update_info('iter', 9), hub.update_info('max_iters', 10)  # all terms have weight
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, 0.01, momentum=0.9)
    for _ in range(steps):
        mode.waits.clear()
        data = model.data_preprocessor(h.raw_batch(family, SIZES), True)
        loss, _ = model.parse_losses(model(**data, mode='loss'))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    hub.update_info('max_iters', 0)
    return mode.waits.copy()


def added(families: Sequence[str], name: str) -> Counter[str] | None:
    """The waits that a method adds to a step of the student's, by operator and place; None if it fits none."""
    family, model = model_of(families, name)
    if model is None:
        return None
    with fake_gpu(place) as mode:
        alone = train(h.build(h.FAMILIES[family]()).train().to(DEVICE), family, mode, 2)
        return train(model.to(DEVICE), family, mode, WARM_UP) - alone


def counted() -> tuple[dict[str, int], str]:
    """How many waits each of some readings is, and what is said where both sides are mixed."""
    with fake_gpu() as mode:
        a = to_fake(torch.tensor([1.0, 0.0]))
        readings: dict[str, Callable[[], Any]] = {
            'mask': lambda: a[a > 0],
            'item': lambda: a.sum().item(),
            'nonzero': lambda: a.nonzero(),
            'bool': lambda: bool(a.any()),
            'tolist': lambda: a.tolist(),
            'cpu': lambda: a.cpu(),
            'to device': lambda: torch.ones(2).to(DEVICE),
            'set by a mask': lambda: a.clone().__setitem__(a > 0, 0.0),
            'made there': lambda: torch.zeros(2, device=DEVICE) + a.masked_fill(a > 0, 1.0),
        }
        found = {name: waits_of(mode, reading) for name, reading in readings.items()}
        try:
            a + torch.ones(2)
        except AssertionError as error:
            return found, str(error)
        return found, ''


def waits_of(mode: FakeGPU, reading: Callable[[], Any]) -> int:
    """How often one reading waits."""
    before = mode.waits.total()
    reading()
    return mode.waits.total() - before


class Spoilt(FeatureMethod):
    """Not finite from the second iteration on."""

    seen = 0

    def distance(self, student: Any, teacher: Any) -> Any:
        """The mean square."""
        self.seen += 1
        distance = (student - teacher).square().mean()
        return distance if self.seen == 1 else distance * float('nan')


def spoilt(steps: int, settled: bool) -> None:
    """Train with it, and ask at the end, as before something is saved."""
    with fake_gpu() as mode:
        guide = h.widened(h.classifier())
        model = h.distiller(h.classifier(), guide, spoilt=dict(type=Spoilt)).train().to(DEVICE)
        train(model, 'classifier', mode, steps)
        if settled:
            model.distillation.settle()


def late() -> tuple[list[dict[str, Any]], int, dict[str, Any]]:
    """What three readings answer, how often they wait, and what is left."""
    with fake_gpu() as mode:
        readings = Readings()
        numbers = [torch.full((1,), value, device=DEVICE) * 1.0 for value in (1.0, 2.0, 3.0)]
        found = [readings(['a'], number) for number in numbers]
        return found, mode.waits.total(), readings.rest()


def late_ratios() -> tuple[list[float], list[float]]:
    """DPK's ratios of three batches here and on the device."""
    torch.manual_seed(0)
    batches = [tuple(torch.randn(8, 4, 2, 2) for _ in range(2)) for _ in range(3)]
    here, there, rng = CKARatio(), CKARatio(), torch.Generator()
    wanted = [here([pair], 0.0, rng)[0].ratio for pair in batches]
    with fake_gpu() as mode:
        on_device = [tuple(side.to(DEVICE) for side in pair) for pair in batches]
        before = mode.waits.total()
        found = [there([pair], 0.0, rng)[0].ratio for pair in on_device]
        assert mode.waits.total() == before
    return found, [there.fallback, *wanted[:2]]
