"""The same as ``mmkd rank-teachers``."""

from mmkd_cli import run_tool

if __name__ == '__main__':
    run_tool('rank-teachers')
