# Written by `kfp-foundry docs`; lazy_loader wants relative imports.
# ruff: noqa: TID251, TID252
from .evaluation.write_report.component import write_report as write_report
from .features.split_table.component import split_table as split_table
