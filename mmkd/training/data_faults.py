"""Faults in the middle of training, of data, workers, disks and losses: one message with cause and cure."""

from __future__ import annotations

import functools
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner

from ..core.checks import refuse_nonfinite
from ..core.distiller import Distiller
from ..errors import InputError, reason_of
from ..family.heads import class_count
from ..files.data import SMALL, check_annotations
from ..files.writing import FULL
from .method_optimizers import bare

WHOLE = 'Checkpoints that are there are whole: go on with --resume'
IMAGES = ('.jpg', '.jpeg', '.png', '.bmp', '.ppm', '.pgm', '.tif', '.tiff', '.webp')
WORKER = re.compile(
    r'DataLoader worker \(pid.*\) (?:is killed by signal: [\w ]+|exited unexpectedly)'
    r'|Pin memory thread exited unexpectedly'
    r'|unable to (?:write to file|mmap|allocate shared memory|resize file|open shared memory).*'
)
NO_SAMPLE = 'need at least one array to concatenate'
NO_VALID = ('Cannot find valid image after', 'pipline should not get `None`')
ONE_VALUE = 'Expected more than 1 value per channel when training'
NO_CLASS = ('is out of bounds', 'Class values must be smaller than num_classes')
FOLDERS = ('Found 0 files in subfolders', 'The number of subfolders')


class FaultHook(Hook):
    """Lets the data sets name the file of a sample that cannot be read. What they give stays the same.

    Attributes:
        started: whether an iteration has come to its end; what fails before is wrong in the config.
    """

    started = False

    def before_run(self, runner: Runner) -> None:
        """The loaders are built, and their workers are not started yet."""
        if isinstance(runner._train_loop, BaseLoop):
            refuse_few_classes(bare(runner), runner.train_dataloader.dataset)
        for part in ('train', 'val', 'test'):
            loader = getattr(getattr(runner, f'_{part}_loop'), 'dataloader', None)
            if loader is None:
                continue
            watch(loader.dataset)
            if loader.num_workers > 0:
                loader.worker_init_fn = functools.partial(guard_worker, loader.worker_init_fn)

    def _after_iter(self, runner: Runner, *batch: Any, **mode: Any) -> None:
        self.started = True

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """A plain student's losses must be finite, too; a loss scaler leaves out those that are not."""
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        scaled = hasattr(runner.optim_wrapper, 'loss_scaler')
        if not (scaled or isinstance(bare(runner), Distiller)):
            refuse_nonfinite({k: v for k, v in (outputs or {}).items() if 'loss' in k})


def watch(dataset: Any) -> None:
    """Let a data set, and those it wraps, name files that cannot be read."""
    for inner in (getattr(dataset, 'dataset', None), *(getattr(dataset, 'datasets', None) or ())):
        if inner is not None:
            watch(inner)
    if hasattr(dataset, 'prepare_data') and 'prepare_data' not in vars(dataset):
        dataset.prepare_data = functools.partial(_prepare, dataset, dataset.prepare_data)


def guard_worker(init: Callable[[int], None] | None, worker: int) -> None:
    """Start a data worker that ends where a batch cannot be handed over, by itself it would be lost.

    Training would then wait for the batch for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C comes to all; the main process answers it
    Queue._on_queue_feeder_error = staticmethod(_feeder_failed)  # type: ignore[attr-defined]
    if init is not None:
        init(worker)


def _feeder_failed(error: Exception, batch: Any) -> None:
    print(f'data worker: a batch cannot be handed over: {error}', file=sys.stderr, flush=True)
    os._exit(1)


def refuse_few_classes(model: Any, dataset: Any) -> None:
    """Stop if the data have labels for which the model has no class."""
    head, count = class_count(model)
    labels = labels_of(dataset)
    if count is not None and labels > count:
        raise InputError(
            f'{head}.num_classes={count}: the training data have {labels} classes; give as many '
            f'(--cfg-options model.{head}.num_classes={labels}), or the classes in metainfo of the data sets'
        )


def labels_of(dataset: Any) -> int:
    """How many labels a data set's samples may have; 0 if it does not tell."""
    meta = getattr(dataset, 'metainfo', None) or {}
    names = meta.get('thing_classes') or meta.get('classes')
    if names is not None:
        return 0 if isinstance(names, str) else len(names)
    with suppress(Exception):  # what is listed need not be one number for each sample
        return int(max(dataset.get_gt_labels())) + 1
    return 0


@contextmanager
def answered(cfg: Config, parts: tuple[str, ...], hook: FaultHook) -> Iterator[None]:
    """Answer what goes wrong with data, workers and disks by an InputError; all else passes.

    Before the first iteration is over nothing passes: it is wrong in the config.

    Args:
        cfg: what is trained or tested.
        parts: of which loops data sets are read.
        hook: the Runner's.
    """
    inherited = logging.FileHandler.handleError
    logging.FileHandler.handleError = _log_failed(inherited)  # type: ignore[method-assign]
    try:
        yield
    except InputError as error:
        text = str(error)
        if not text.startswith('Caught '):
            raise
        # from a data worker it comes as text, after the worker's traceback
        raise InputError(text.rpartition(f'{InputError.__name__}: ')[2].strip()) from error
    except Exception as error:
        answer = answer_of(error, cfg)
        if answer is not None:
            raise answer from error
        if isinstance(error, (ValueError, KeyError, TypeError)):
            check_annotations(cfg, parts, least=SMALL)
        if hook.started or isinstance(error, FloatingPointError):
            raise
        raise InputError(f'before the first iteration was over: {reason_of(error)}') from error
    finally:
        logging.FileHandler.handleError = inherited  # type: ignore[method-assign]


def answer_of(error: Exception, cfg: Config) -> InputError | None:
    """What there is to say of an error; None if it is not of the kinds that are known here."""
    text = str(error)
    if isinstance(error, OSError) and error.errno in FULL:
        return InputError(
            f'{cfg.work_dir}: no space left on the disk ({error}); make room. {WHOLE}'
        )
    if found := WORKER.search(text):
        return InputError(_worker(found.group()))
    last = text.strip().splitlines()[-1:]
    if isinstance(error, KeyError) and _raised_in(error) == 'checkpoint_hook.py':
        return InputError(
            f'default_hooks.checkpoint.save_best: the evaluation gives no {text}; its names are in the log '
            f"(coco/bbox_mAP, accuracy/top1, mIoU), or save_best='auto'. {WHOLE}"
        )
    if any(words in text for words in NO_VALID):
        return InputError(
            f'data set: {last[0]}: the pipeline gave nothing for any of the samples tried. Either their '
            'images cannot be read and ignore_empty=True of LoadImageFromFile hides it (set it to '
            'False), or a step of the pipeline drops all of them (FilterAnnotations)'
        )
    if NO_SAMPLE in text:
        return InputError(
            'data set: no sample is left; see ann_file, data_prefix and filter_cfg of the data sets: '
            'filter_empty_gt leaves out images without objects of the classes in metainfo'
        )
    if ONE_VALUE in text:
        return InputError(
            f'train_dataloader.batch_size={cfg.train_dataloader.get("batch_size")}: BatchNorm in training '
            f'mode had a batch of one value for each channel ({text.strip()}); a larger batch_size, or '
            'train_dataloader.drop_last=True if the last batch of an epoch is a single image'
        )
    if any(words in text for words in NO_CLASS):
        return InputError(
            f'num_classes: the data have labels for which the head has no class ({last[0]}); give as many '
            'classes as the data have, and see metainfo (and reduce_zero_label) of the data sets'
        )
    if any(words in text for words in FOLDERS):
        return InputError(
            f'data set: {last[0]}; each class needs a folder with images in data_prefix'
        )
    return None


def _raised_in(error: Exception) -> str:
    """The name of the file whose code raised an error."""
    frames = traceback.extract_tb(error.__traceback__)
    return Path(frames[-1].filename).name if frames else ''


def unreadable(info: Mapping[str, Any], error: Exception) -> str | None:
    """Which file of a sample cannot be read, and why; None if all can.

    >>> unreadable({'img_path': 'gone.jpg'}, FileNotFoundError())
    'gone.jpg: no such file'
    """
    values = [value for key, value in info.items() if key.endswith('path')]
    paths = [path for v in values for path in (v if isinstance(v, (list, tuple)) else [v])]
    for path in paths:
        if isinstance(path, str) and '://' not in path and (reason := _reason(Path(path))):
            return f'{path}: {reason}'
    if isinstance(error, OSError) and paths:
        return f'{paths[0]}: {error}'
    return None


def _reason(path: Path) -> str | None:
    """Why a file cannot be read."""
    if not path.is_file():
        return 'no such file'
    try:
        content = path.read_bytes()
    except OSError as error:
        return str(error)
    if not content:
        return 'empty (0 bytes)'
    if path.suffix.lower() in IMAGES:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        return f'no image, cut off or damaged ({len(content)} bytes)' if image is None else None
    return None


def _prepare(dataset: Any, inherited: Callable[[int], Any], index: int) -> Any:
    """A sample; where that fails, the files it is made of are looked at."""
    try:
        return inherited(index)
    except Exception as error:
        found = unreadable(dataset.get_data_info(index), error)
        if found is None:
            raise
        listed = getattr(dataset, 'ann_file', '') or 'the data set'
        raise InputError(
            f'data: {found}; put the whole file there, or take it out of {listed}. {WHOLE}'
        ) from error


def _worker(what: str) -> str:
    return (
        f'data workers: {what}. Most often memory is full: of the machine (lower num_workers or '
        'batch_size of the dataloaders), or, after a bus error or a failed write, the shared memory '
        f'/dev/shm (make it larger, as docker run --shm-size=8g does, or num_workers=0). {WHOLE}'
    )


def _log_failed(inherited: Callable[..., None]) -> Callable[..., None]:
    """What a log file does that cannot be written: it says so once, and training goes on."""
    told: set[str] = set()

    def handle(handler: logging.FileHandler, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            inherited(handler, record)
        elif handler.baseFilename not in told:
            told.add(handler.baseFilename)
            print(f'log file {handler.baseFilename}: lines are lost ({error})', file=sys.stderr)

    return handle
