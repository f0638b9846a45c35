"""What a distillation is: teacher, method, one training step, and the Distiller that the Runner trains.

The teacher sees the student's batch in its own normalisation (repainting); a method is given two
networks once and a step again and again; the engine takes a batch through all of them. What any one
method does, and what happens around training, is not known here.
May import: files, losses, family, necks.
"""
