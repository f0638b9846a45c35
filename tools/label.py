"""The same as ``mmkd label``."""

from mmkd_cli import run_tool

if __name__ == '__main__':
    run_tool('label')
