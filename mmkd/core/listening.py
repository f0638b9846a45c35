"""Which teacher a method listens to."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import InputError, nearest
from .method import Method
from .teacher import Teacher


def listens_to(name: str, method: Method, teachers: Mapping[str, Teacher]) -> str | None:
    """The teacher that a method listens to, or a clear answer why there is none."""
    teacher = _teacher_of(name, method, teachers)
    if teacher is not None and method.runs_teacher and teachers[teacher].cache is not None:
        raise InputError(
            f'methods.{name}: {type(method).__name__} runs parts of the teacher on what is another in every '
            f'step; leave cache of {teachers[teacher].owner} out'
        )
    return teacher


def _teacher_of(name: str, method: Method, teachers: Mapping[str, Teacher]) -> str | None:
    if not method.needs_teacher:
        if method.teacher_name is not None:
            raise InputError(
                f'methods.{name}: teacher={method.teacher_name!r}, but {type(method).__name__} is '
                'a self-method and takes no teacher; leave the option out'
            )
        return None
    if not teachers:
        raise InputError(
            f'methods.{name}: {type(method).__name__} needs a teacher and none is given; add '
            "--teacher CONFIG --teacher-checkpoint FILE (teacher=dict(config=..., checkpoint='...'))"
        )
    if method.teacher_name is None and len(teachers) == 1:
        return next(iter(teachers))
    if method.teacher_name is None:
        raise InputError(
            f'methods.{name}: there are {len(teachers)} teachers; say which one it listens to with '
            f"teacher='NAME' ({nearest('', teachers)})"
        )
    if method.teacher_name not in teachers:
        raise InputError(
            f'methods.{name}: unknown teacher {method.teacher_name!r}; '
            f'{nearest(method.teacher_name, teachers)}'
        )
    return method.teacher_name
