"""What the command lines do, one file for each: train, test, export, rank teachers, compare, doctor, demo.

A tool under ``tools/`` reads arguments and calls one function here.
May import: files, datasets, losses, family, core, methods, config, training.
"""
