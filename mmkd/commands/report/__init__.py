"""What ``mmkd report`` does: one page of what trainings have logged, finished or not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...files.writing import refuse_unwritable, write_whole
from .charts import draw, lines_of
from .numbers import numbers_of
from .page import Page
from .pictures import draw_pictures
from .runs import evaluated, name_arms, read_trainings


def write_report(
    work_dirs: Sequence[Path],
    *,
    baseline: Sequence[Path] = (),
    teacher_dir: Path | None = None,
    out: Path | None = None,
    metric: str | None = None,
    pictures: int = 0,
    trust_checkpoint: bool = False,
) -> Path:
    """Write the page; where it is.

    Args:
        work_dirs: of trainings, or of a comparison.
        baseline: of the student alone; plain students among ``work_dirs`` are it, too.
        teacher_dir: where the teacher was evaluated or trained.
        out: the file; by default ``report.html`` in the first work dir.
        metric: that decides; by default ``save_best`` or the usual one.
        pictures: how many images are shown with what alone, distilled and teacher find; they are run for it.
        trust_checkpoint: unpickle checkpoints without restriction.
    """
    out = work_dirs[0] / 'report.html' if out is None else out
    refuse_unwritable(out.parent, '--out')
    alone = read_trainings(baseline, '--baseline')
    trainings = [*read_trainings(work_dirs, 'WORK_DIR'), *alone]
    name_arms(trainings, alone)
    theirs = {} if teacher_dir is None else evaluated(teacher_dir)
    numbers = numbers_of(trainings, theirs, metric)
    sections = lines_of(trainings, numbers.metric)
    guide = theirs.get(numbers.metric) if numbers.metric else None
    charts, script, library = draw(sections, guide, trainings[0].by_epoch)
    page = Page(trainings, numbers, charts, script, library)
    if pictures:
        picture = out.with_suffix('.png')
        page.picture = (
            picture, draw_pictures(trainings, numbers, pictures, picture, trust_checkpoint),
        )  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, page.html().encode())
    return out
