"""The same as ``mmkd make-shapes``."""

from mmkd_cli import run_tool

if __name__ == '__main__':
    run_tool('make-shapes')
