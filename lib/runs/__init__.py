"""Runs: a notebook, its parameters at one scale, and the record of what came out.

A notebook calls `seed_all` first, `save_figure` on the way and `record` last. They do the same in JupyterLab
as under `python -m lib.runs`, which executes every run of `papermill_runs/runs` that is not done yet.
"""

from lib.runs.records import SCALES, figure_folder, record, result_path, save_figure, seed_all

__all__ = ["SCALES", "figure_folder", "record", "result_path", "save_figure", "seed_all"]
