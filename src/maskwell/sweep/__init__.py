"""Searches over the keys of ``train.py``, and batch scripts for SLURM."""
