"""The hook that makes a training that was stopped end like one that was not."""

from __future__ import annotations

import functools
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import print_log
from mmengine.optim import OptimWrapperDict
from mmengine.runner import IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from ..collectives import gather_objects, local_part, rank, world_size
from ..core.distiller import Distiller
from ..errors import InputError
from ..files.writing import ATOMIC, PART, write_whole
from ..registry import HOOKS
from .manifest import MANIFEST
from .method_optimizers import bare, settle
from .randomness import Numbered, State, override, random_state, set_random_state, start_worker
from .saving import given_backend, saves_now
from .watch import Watch

KEY = 'mmkd_resume'
"""Where a checkpoint keeps the random states of all ranks and the place in the data."""
INTERRUPTED = 'interrupted.pth'
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


@HOOKS.register_module()
class ResumeHook(Hook):
    """A training that is killed and resumed, as often as it may be, ends with the same weights.

    What mmengine's checkpoints lack is added: the states of the random generators of every rank, the
    place in the data (inside an epoch too), validations that were due, gradients that are accumulated.
    Data workers draw each sample with a seed of its own. Checkpoints are written atomically, and the old
    one goes when the new one is there. At SIGTERM, SIGUSR1 or Ctrl-C the next iteration (on several ranks
    one of the next second) ends with a checkpoint, and training stops with exit status 128 + signal.
    """

    priority = 80  # schedules and averages are up to date then; checkpoints are written later

    def __init__(self) -> None:
        self._data = Passes()
        self._record: dict[str, Any] | None = None
        self._prepared = False
        self._validated = False
        self._gathered: tuple[int, list[Any]] = (-1, [])
        self._signal = 0
        self._handlers: dict[int, Any] = {}
        self._group: Any = None
        self._watch: Watch | None = None

    # -- what is prepared -----------------------------------------------------------------------

    def before_run(self, runner: Runner) -> None:
        """Follow the data, write checkpoints atomically, listen to signals."""
        trains = runner._train_loop is not None and not isinstance(runner._train_loop, dict)
        if trains and not self._prepared:
            self._prepared = True
            self._prepare(runner)

    def _prepare(self, runner: Runner) -> None:
        loaders = [runner.train_dataloader]
        loaders += [] if runner.val_loop is None else [runner.val_loop.dataloader]
        for loader in loaders:
            if loader.persistent_workers:
                # these start once in a process, so their start must not draw from its generators
                loader.generator = torch.Generator()
        self._data.follow(runner.train_dataloader, lambda: runner.iter, runner.seed or 0)
        for hook in runner.hooks:
            local = '://' not in str(getattr(hook, 'out_dir', None) or runner.work_dir)
            if isinstance(hook, CheckpointHook) and local and not given_backend(hook):
                hook.backend_args = dict(backend=ATOMIC)
        if rank() == 0:
            for part in Path(runner.work_dir).glob(f'*{PART}'):
                part.unlink()
        if world_size() > 1:
            self._group = dist.new_group(backend='gloo')
            self._watch = Watch(self._group)
        if threading.current_thread() is threading.main_thread():
            self._handlers = {s: signal.signal(s, self._note) for s in SIGNALS}

    def after_run(self, runner: Runner) -> None:
        """Leave the signals as they were."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        if self._signal == number == signal.SIGINT:
            raise KeyboardInterrupt  # who presses Ctrl-C again does not want to wait
        self._signal = number

    # -- what is saved --------------------------------------------------------------------------

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """The last validation and the last gathering are of another state from here on."""
        self._validated, self._gathered = False, (-1, [])

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Gather what a checkpoint of this iteration needs; stop if a signal has come to any rank."""
        number = self._agreed()
        if number or any(saves_now(hook, runner) for hook in runner.hooks):
            self._gather(runner)
        if number:
            self._stop(runner, number)

    def after_train_epoch(self, runner: Runner) -> None:
        """Gather what a checkpoint of this epoch needs."""
        self._gather(runner)

    def after_val_epoch(self, runner: Runner, metrics: Any = None) -> None:
        """Gather once more: a new best score is saved again."""
        self._validated = True
        self._gather(runner)
        self._ask_soon()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add the random states and the place in the data. The first rank alone comes here."""
        at, ranks = self._gathered
        if at != runner.iter:
            ranks = [self._own(runner)]
        place = dict(began=self._data.began, number=self._data.number)
        checkpoint[KEY] = dict(ranks=ranks, validated=self._validated, **place)

    def _own(self, runner: Runner) -> dict[str, Any]:
        own = dict(now=random_state(), start=self._data.start)
        return own if between_updates(runner) else {**own, 'gradients': gradients(runner)}

    def _gather(self, runner: Runner) -> None:
        self._gathered = (runner.iter, gather_objects(self._own(runner), self._group))

    def _agreed(self) -> int:
        """The signal that came to any rank, once all know of it."""
        return self._signal if self._watch is None else self._watch.agreed(self._signal)

    def _ask_soon(self) -> None:
        if self._watch is not None:
            self._watch.soon()

    def _stop(self, runner: Runner, number: int) -> None:
        settle(runner)
        meta = dict(epoch=runner.epoch, iter=runner.iter + 1)
        runner.save_checkpoint(
            runner.work_dir, INTERRUPTED, meta=meta, backend_args=dict(backend=ATOMIC)
        )
        path = Path(runner.work_dir, INTERRUPTED)
        first = rank() == 0
        if first:
            write_whole(path.with_name('last_checkpoint'), str(path).encode())
        if self._group is not None:
            dist.barrier(self._group)
        print_log(
            f'{signal.Signals(number).name}: stopped after iteration {runner.iter + 1}; go on with '
            f'--resume ({path})',
            'current',
            logging.WARNING,
        )
        # one bad status is enough, and srun would kill the first rank at another's
        raise SystemExit(128 + number if first else 0)

    # -- what is taken up -----------------------------------------------------------------------

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Keep what is needed when training begins."""
        if not runner._resume:
            return
        if MANIFEST in checkpoint and not isinstance(bare(runner), Distiller):
            raise InputError(
                'resume: the checkpoint is of a distillation, the config trains the student alone; '
                'give the options of the distillation again, or load_from=CHECKPOINT for its weights'
            )
        self._record = checkpoint.get(KEY)
        if self._record is None:
            print_log(
                'resume: the checkpoint has no random states and no place in the data; training goes '
                'on, but not as it would have without the stop',
                'current',
                logging.WARNING,
            )

    def before_train_epoch(self, runner: Runner) -> None:
        """Ask for signals soon; when training begins: take up the random states and the place in the data."""
        self._ask_soon()
        record, self._record = self._record, None
        if record is not None:
            self._take_up(runner, record)

    def after_train(self, runner: Runner) -> None:
        """A validation that was due after the last epoch, if there was no epoch left to train."""
        record, self._record = self._record, None
        if record is not None:
            self._take_up(runner, record)

    def _take_up(self, runner: Runner, record: dict[str, Any]) -> None:
        if len(record['ranks']) != world_size():
            print_log(
                f'resume: the checkpoint is of {len(record["ranks"])} ranks, these are '
                f'{world_size()}; random states and the place in the data are not taken up',
                'current',
                logging.WARNING,
            )
            return
        own, loop = record['ranks'][rank()], runner.train_loop
        set_random_state(own['now'])
        set_gradients(runner, own.get('gradients', {}))
        by_iteration = isinstance(loop, IterBasedTrainLoop)
        if by_iteration:
            loop.fast_forward_on_resume = True  # not the loop, but the data are wound on, below
            skipped = runner.iter - record['began']
            self._data.turn_to(record['number'], loop.dataloader_iterator, runner.train_dataloader)
        else:
            skipped = runner.iter - runner.epoch * len(runner.train_dataloader)
            self._data.number = record['number'] - bool(skipped)  # an unfinished pass begins again
        if not record['validated'] and (by_iteration or not skipped) and validation_due(runner):
            print_log('resume: the validation that was due comes first', 'current')
            runner.val_loop.run()
        if skipped:
            self._data.wind(skipped, random_state())
            set_random_state(own['start'])


@dataclass
class Passes:
    """Where training is in its data: the pass that is going on, and how to get there again.

    Attributes:
        number: how many passes came before.
        began: in which iteration the pass began.
        start: the random states then, before anything was drawn for it.
    """

    number: int = -1
    began: int = 0
    start: State = field(default_factory=random_state)
    _clock: Callable[[], int] = lambda: 0
    _numbered: bool = False
    _asked: bool = False
    _skipped: int = 0
    _then: State | None = None

    def follow(self, loader: DataLoader, clock: Callable[[], int], seed: int) -> None:
        """Follow the batches of a loader from here on.

        Args:
            loader: its batch sampler becomes a followed one.
            clock: tells the iteration.
            seed: of the samples, if workers draw them.
        """
        self._clock = clock
        if loader.batch_sampler is None:
            print_log(
                'resume: the data have no indices (an IterableDataset); they start anew at a resume',
                'current',
                logging.WARNING,
            )
            return
        sampler: Any = loader.batch_sampler
        override(sampler, '__iter__', self._iterate)
        if loader.num_workers > 0:
            self._numbered = True
            init = functools.partial(start_worker, init=loader.worker_init_fn, seed=seed)
            loader.worker_init_fn = init

    def turn_to(self, number: int, iterator: Any, loader: DataLoader) -> None:
        """Let the next pass of an iteration-based loop be one of a number."""
        self.number, iterator._epoch = number - 1, number
        sampler: Any = getattr(loader.batch_sampler, 'sampler', None)
        if hasattr(sampler, 'set_epoch'):
            sampler.set_epoch(number)

    def wind(self, skipped: int, then: State) -> None:
        """Leave batches of the next pass out, and take up random states once they are."""
        self._skipped, self._then = skipped, then

    def _iterate(self, inherited: Callable[[], Iterator[list[int]]]) -> Iterator[list[int]]:
        """A pass begins. Loaders with workers ask twice for their first."""
        if not self._asked:
            self._asked, self.number = True, self.number + 1
            self.began, self.start = self._clock() - self._skipped, random_state()
        return self._batches(inherited())

    def _batches(self, batches: Iterator[list[int]]) -> Iterator[list[int]]:
        """The batches of a pass. They are drawn ahead where there are workers."""
        self._asked, iteration = False, self.began
        for _ in range(self._skipped):
            next(batches, None)
            iteration += 1
        if self._then is not None:
            set_random_state(self._then)
        self._skipped, self._then = 0, None
        for batch in batches:
            yield [Numbered.of(i, iteration) for i in batch] if self._numbered else batch
            iteration += 1


def between_updates(runner: Runner) -> bool:
    """Whether no gradients are accumulated for the next update."""
    wrapper = runner.optim_wrapper
    return isinstance(wrapper, OptimWrapperDict) or wrapper.should_update()


def gradients(runner: Runner) -> dict[str, torch.Tensor]:
    """The gradients of this rank, or its shares of them, which are accumulated."""
    named = bare(runner).named_parameters()
    return {name: local_part(p.grad).cpu() for name, p in named if p.grad is not None}


def set_gradients(runner: Runner, found: dict[str, torch.Tensor]) -> None:
    """Go on with gradients that were accumulated."""
    for name, parameter in bare(runner).named_parameters():
        if name not in found:
            continue
        gradient = torch.zeros_like(parameter)
        own = local_part(gradient)
        if own.shape != found[name].shape:
            print_log(
                'resume: the checkpoint has accumulated gradients, of a training that was sharded '
                'otherwise; they are lost',
                'current',
                logging.WARNING,
            )
            return
        own.copy_(found[name])
        parameter.grad = gradient


def validation_due(runner: Runner) -> bool:
    """Whether the loop would validate at this point."""
    loop = runner.train_loop
    if runner.val_loop is None or not hasattr(loop, '_decide_current_val_interval'):
        return False
    loop._decide_current_val_interval()
    by_iteration = isinstance(loop, IterBasedTrainLoop)
    done, last = (loop.iter, loop.max_iters) if by_iteration else (loop.epoch, loop.max_epochs)
    return done >= loop.val_begin and (done % loop.val_interval == 0 or done == last)
