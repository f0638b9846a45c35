"""Packaging of mmkd. The exact versions it was tested with are in requirements.txt."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent


def version() -> str:
    scope: dict[str, str] = {}
    exec((HERE / 'mmkd' / 'version.py').read_text(), scope)
    return scope['__version__']


setup(
    name='mmkd',
    version=version(),
    description='Knowledge distillation for mmdet, mmpretrain and mmsegmentation',
    long_description=(HERE / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.9',
    packages=find_packages(include=['mmkd', 'mmkd.*', 'mmkd_cli']),
    entry_points={'console_scripts': ['mmkd = mmkd_cli:main']},
    # mmkd/.mim links to configs/ and tools/, where the family looks for `mmkd::` configs
    package_data={
        'mmkd': [
            'py.typed',
            '.mim/configs/**/*.py',
            '.mim/configs/**/metafile.yml',
            '.mim/configs/demo/teacher.*',
            '.mim/tools/*',
            '.mim/model-index.yml',
        ]
    },
    install_requires=[
        'torch>=2.1',
        'onedl-mmengine>=0.10.8',
        'onedl-mmcv>=2.3',
        'onedl-mmdetection>=3.4',
        'onedl-mmpretrain>=1.3',
        'onedl-mmsegmentation>=1.4',
        'numpy>=1.24',
        'opencv-python<5',
        'pycocotools>=2.0.6',
        'scipy>=1.9',
        'rich>=12',
        'matplotlib>=3.5',
        'ftfy',
        'regex',
        'prettytable',
        'setuptools<81',
    ],
    extras_require={
        # transformers 5 does not go with mmpretrain 1.3
        'teachers': ['timm>=1.0.12', 'transformers>=4.53,<5'],
        'report': ['bokeh>=3.4'],
        'docs': ['mkdocs-material>=9.5'],
        'dev': ['pytest>=8', 'ruff', 'mypy', 'pre-commit'],
    },
)
