"""From any project's config to a distillation config, and back to the plain student's.

May import: family, core, datasets.
"""
