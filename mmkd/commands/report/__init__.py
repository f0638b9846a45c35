"""What ``mmkd report`` does: one page of what trainings have logged, finished or not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...errors import InputError
from ...files.writing import refuse_unwritable, write_whole
from .charts import draw, lines_of
from .looks import Asked, looks_of
from .numbers import numbers_of
from .page import Page
from .runs import evaluated, name_arms, read_trainings


def write_report(
    work_dirs: Sequence[Path],
    *,
    baseline: Sequence[Path] = (),
    teacher_dir: Path | None = None,
    out: Path | None = None,
    metric: str | None = None,
    models: bool = True,
    images: int = 200,
    pictures: int = 4,
    trust_checkpoint: bool = False,
) -> Path:
    """Write the page; where it is.

    Args:
        work_dirs: of trainings, or of a comparison.
        baseline: of the student alone; plain students among ``work_dirs`` are it, too.
        teacher_dir: where the teacher was evaluated or trained.
        out: the file; by default ``report.html`` in the first work dir.
        metric: that decides; by default ``save_best`` or the usual one.
        models: whether the networks of finished trainings are run on validation images.
        images: on how many.
        pictures: how many are shown with what alone, distilled and teacher find.
        trust_checkpoint: unpickle checkpoints without restriction.
    """
    out = work_dirs[0] / 'report.html' if out is None else out
    for option, least, value in (('--images', 1, images), ('--pictures', 0, pictures)):
        if value < least:
            raise InputError(f'{option} {value}: needed: {least} or more')
    refuse_unwritable(out.parent, '--out')
    alone = read_trainings(baseline, '--baseline')
    trainings = [*read_trainings(work_dirs, 'WORK_DIR'), *alone]
    name_arms(trainings, alone)
    theirs = {} if teacher_dir is None else evaluated(teacher_dir)
    numbers = numbers_of(trainings, theirs, metric)
    sections = lines_of(trainings, numbers.metric)
    guide = theirs.get(numbers.metric) if numbers.metric else None
    charts, script, library = draw(sections, guide, trainings[0].by_epoch)
    looks = looks_of(trainings, numbers, Asked(models, images, pictures, trust_checkpoint))
    page = Page(trainings, numbers, charts, script, library, looks)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, page.html().encode())
    return out
