"""Train any OpenMMLab config, plain or distilled."""

import argparse

from mmengine.config import DictAction

from mmkd.commands.tool import add_common_arguments, run_tool
from mmkd.commands.train import train, training_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='a config of any project, or a Distiller config')
    parser.add_argument('--work-dir', help='where logs and checkpoints go')
    parser.add_argument(
        '--distill',
        metavar='METHOD',
        help='distil the plain config: pkd, pkd+kd, with weights pkd:3+kd, ...',
    )
    parser.add_argument('--teacher', metavar='CONFIG', help="the teacher's config")
    parser.add_argument('--teacher-checkpoint', metavar='FILE', help="the teacher's weights")
    parser.add_argument(
        '--distill-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
        help='options of methods and teacher: pkd.weight=3 teacher.precision=bf16',
    )  # fmt: skip
    parser.add_argument(
        '--resume', nargs='?', const='auto', metavar='FILE',
        help='resume from a checkpoint; without a value, from the latest in the work dir',
    )  # fmt: skip
    parser.add_argument('--amp', action='store_true', help='mixed precision')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate')
    add_common_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = training_config(
        args.config,
        work_dir=args.work_dir,
        cfg_options=args.cfg_options,
        method=args.distill,
        teacher=args.teacher,
        checkpoint=args.teacher_checkpoint,
        distill_options=args.distill_options,
        resume=args.resume,
        amp=args.amp,
        auto_scale_lr=args.auto_scale_lr,
        launcher=args.launcher,
        trust_checkpoint=args.trust_checkpoint,
    )
    train(cfg, args.trust_checkpoint)


if __name__ == '__main__':
    run_tool(main)
