"""``python -m mmkd`` is the command ``mmkd``."""

from mmkd_cli import main

if __name__ == '__main__':
    main()
