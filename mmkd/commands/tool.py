"""What the command lines share: where their files are, and wrong input as one message."""

from __future__ import annotations

import functools
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmengine.logging

from ..errors import InputError
from ..training.processes import leave_ranks

ROOT = (Path(__file__).parents[1] / '.mim/configs').resolve().parent
"""Where ``configs`` and ``tools`` are: the checkout, or the folder of them that is installed."""

TRACEBACK = 'MMKD_TRACEBACK'
NOT_FINITE = (
    'lower the learning rate or clip gradients (optim_wrapper.clip_grad.max_norm=10), lower the weight '
    'of a method that is named, look at the data, or leave such iterations out (skip_nonfinite=N in the '
    'Distiller)'
)


NOISE = (
    r'.*`num_anchors` is deprecated',
    r'torch\.meshgrid: in an upcoming release',
    r'.*torchvision\.datapoints',
)
"""Warnings of other packages that tell the user of a command nothing."""


def hush() -> None:
    """Drop :data:`NOISE`, and remarks for debugging that packages print for want of a logger."""
    for pattern in NOISE:
        warnings.filterwarnings('ignore', pattern)
    plain = mmengine.logging.print_log

    @functools.wraps(plain)
    def print_log(msg: Any, logger: Any = None, level: int = logging.INFO) -> None:
        if logger is not None or level > logging.DEBUG:
            plain(msg, logger, level)

    if not hasattr(plain, '__wrapped__'):
        mmengine.logging.print_log = print_log


def run_tool(main: Callable[[], Any]) -> None:
    """Run a tool; what a user can mend ends it with one message instead of a traceback.

    The exit status is 2 for wrong input, 1 for a loss that is not finite, 130 for Ctrl-C. With
    ``MMKD_TRACEBACK=1`` in the environment the traceback of wrong input is printed, too.
    """
    status: Any = None
    hush()
    try:
        main()
    except InputError as error:
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        print(f'error: {error}', file=sys.stderr)
        status = 2
    except FloatingPointError as error:
        print(f'error: {error}; {NOT_FINITE}', file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print('error: stopped by Ctrl-C', file=sys.stderr)
        status = 128 + signal.SIGINT
    except OSError as error:
        print(f'error: {error.filename or ""}: {error.strerror or error}', file=sys.stderr)
        status = 2
    except SystemExit as stop:
        status = stop.code
    leave_ranks()  # here, where nothing of the run is alive any more
    if status is not None:
        sys.exit(status)
