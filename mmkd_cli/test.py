"""Evaluate a checkpoint.

The config is a plain one, or a Distiller's, of which the student is evaluated.

examples:
  mmkd test my.py work_dirs/my/epoch_12.pth
  mmkd test work_dirs/my_pkd/my.py work_dirs/my_pkd/epoch_12.pth --tta
"""

from __future__ import annotations

import argparse

from .arguments import add_config_options, add_launcher, add_trust


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is evaluated."""
    parser.add_argument('config', help='a config of any project, or a Distiller config')
    parser.add_argument('checkpoint', help='the checkpoint to evaluate')
    parser.add_argument('--work-dir', help='where the log goes')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation of the config')
    add_config_options(parser, "overrides of the config: key=value, lists as 'key=[a,b]'")
    add_launcher(parser)
    add_trust(parser)


def run(args: argparse.Namespace) -> None:
    """Evaluate."""
    from mmkd.commands.test import evaluate, evaluation_config

    cfg = evaluation_config(
        args.config,
        args.checkpoint,
        work_dir=args.work_dir,
        cfg_options=args.cfg_options,
        launcher=args.launcher,
        tta=args.tta,
        trust_checkpoint=args.trust_checkpoint,
    )
    evaluate(cfg, args.trust_checkpoint)
