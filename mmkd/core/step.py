"""What a method is given: two networks when it is set up, and one training iteration after another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Size, Tensor, nn

from ..errors import InputError
from ..family.running import probe
from ..family.stages import task_of
from ..family.taps import Features, Tap


@dataclass
class Side:
    """What a method may know of a network when it is set up.

    Attributes:
        model: the student, or a teacher's model.
        config: its model config.
        shapes: the shapes at its taps for one image of a dry run.
        owner: how messages call it.
        image: height and width of that image, in the student's pixels.
        scale: a teacher's pixels for one of the student's.
    """

    model: nn.Module
    config: Mapping[str, Any]
    shapes: dict[Tap, list[Size]]
    owner: str
    image: int = 0
    scale: float = 1.0

    def larger(self) -> Side:
        """The same for an image of four times the size; itself where the network takes no other size."""
        try:
            size = round(4 * self.image * self.scale)
            seen = probe(self.model, self.shapes, self.owner, (size,))
        except InputError:
            return self
        return replace(self, shapes=seen.shapes, image=round(seen.image / self.scale))

    @property
    def task(self) -> str:
        """``classification``, ``detection``, ``segmentation`` or ``other``."""
        return task_of(self.model)


@dataclass
class Step:
    """One training iteration as a method sees it; passed on and dropped.

    Attributes:
        inputs: the student's normalised batch.
        samples: the batch's data samples.
        progress: how far training is, from 0 to 1.
        student: what passed at the student's taps, with gradient.
        teacher: what passed at the teacher's taps; None for self-methods.
        losses: the student's own losses of this iteration.
        rerun: runs the student on other images, with gradient and in the precision of training, and
            gives what passes at some taps.
    """

    inputs: Tensor
    samples: Any
    progress: float
    student: Features
    teacher: Features | None
    losses: Mapping[str, Any]
    rerun: Callable[[Tensor, Iterable[Tap]], Features] | None = None

    def answers(self) -> Features:
        """The teacher's features, for methods that always have a teacher."""
        assert self.teacher is not None
        return self.teacher
