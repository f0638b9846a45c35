"""What is known of OpenMMLab models: how they are built and run, where their parts and answers are.

Every quirk of a model family is told here, as data or one small function, and nowhere else: its task
and stages, its heads and what their logits mean, its boxes, the inputs it can be dry-run on, and taps,
which read what passes at a place of any model.
May import: losses.
"""
