"""What lies on disk: checkpoints read without executing code and written whole, data sets looked at.

May import nothing but the modules of the top level.
"""
