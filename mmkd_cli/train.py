"""Train any OpenMMLab config, plain or distilled.

examples:
  mmkd train my.py
  mmkd train my.py --distill pkd --teacher t.py --teacher-checkpoint t.pth
  mmkd train my.py --distill pkd+kd --teacher t.py --teacher-checkpoint t.pth \\
      --distill-options pkd.weight=3 teacher.precision=bf16
  mmkd train my.py --resume                 go on from the latest checkpoint in the work dir
"""

from __future__ import annotations

import argparse

from .arguments import KeyValues, add_config_options, add_launcher, add_trust


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is trained, how, and where it goes."""
    parser.add_argument('config', help='a config of any project, or a Distiller config')
    parser.add_argument('--work-dir', help='where logs and checkpoints go')
    parser.add_argument(
        '--distill', metavar='METHOD',
        help='distil the plain config: pkd, pkd+kd, with weights pkd:3+kd, ... (mmkd methods)',
    )  # fmt: skip
    parser.add_argument('--teacher', metavar='CONFIG', help="the teacher's config")
    parser.add_argument('--teacher-checkpoint', metavar='FILE', help="the teacher's weights")
    parser.add_argument(
        '--distill-options', nargs='+', action=KeyValues, metavar='KEY=VALUE',
        help='options of methods and teacher: pkd.weight=3 teacher.precision=bf16',
    )  # fmt: skip
    parser.add_argument(
        '--no-labels', nargs='?', const=True, default=False, metavar='FOLDER',
        help="the student's own losses off: distil on images alone, of the config or of a folder",
    )  # fmt: skip
    parser.add_argument(
        '--resume', nargs='?', const='auto', metavar='FILE',
        help='resume from a checkpoint; without a value, from the latest in the work dir',
    )  # fmt: skip
    parser.add_argument(
        '--check-teacher', type=int, metavar='N',
        help='evaluate the teacher on N validation images first (64 in trainings of 500 iterations; 0: not)',
    )  # fmt: skip
    parser.add_argument(
        '--baseline', metavar='WORK_DIR', help='of the student alone: its metrics are shown beside'
    )
    parser.add_argument('--amp', action='store_true', help='mixed precision')
    parser.add_argument(
        '--fast', action='store_true',
        help="take what makes the student's own step faster here: channels last, fused updates, compiling",
    )  # fmt: skip
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate')
    add_config_options(
        parser, "overrides of the config, before it is distilled: key=value, lists as 'key=[a,b]'"
    )
    add_launcher(parser)
    add_trust(parser)


def run(args: argparse.Namespace) -> None:
    """Train."""
    from mmkd.commands.train import train, training_config

    cfg = training_config(
        args.config,
        work_dir=args.work_dir,
        cfg_options=args.cfg_options,
        method=args.distill,
        teacher=args.teacher,
        checkpoint=args.teacher_checkpoint,
        distill_options=args.distill_options,
        no_labels=args.no_labels,
        resume=args.resume,
        amp=args.amp,
        auto_scale_lr=args.auto_scale_lr,
        fast=args.fast,
        launcher=args.launcher,
        trust_checkpoint=args.trust_checkpoint,
        check_teacher=args.check_teacher,
    )
    train(cfg, args.trust_checkpoint, args.baseline)
