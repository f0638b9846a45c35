"""Evaluate a checkpoint with a plain config, or with a Distiller's, of which the student is evaluated."""

import argparse

from mmkd.commands.test import evaluate, evaluation_config
from mmkd.commands.tool import add_common_arguments, run_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='a config of any project, or a Distiller config')
    parser.add_argument('checkpoint', help='the checkpoint to evaluate')
    parser.add_argument('--work-dir', help='where the log goes')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation of the config')
    add_common_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
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


if __name__ == '__main__':
    run_tool(main)
