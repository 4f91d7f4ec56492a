"""Sections of an old config without a file around them."""

from __future__ import annotations

from typing import Any

from mmseg_kd.migration.report import Report
from mmseg_kd.migration.section import Section
from mmseg_kd.migration.source import Place


def section(values: dict[str, Any], *path: str) -> Section:
    """A section with a report of its own."""
    return Section(values, path, Report(lambda path: Place('old.py', 1)))


def problems(one: Section) -> list[str]:
    """What its report lists as not converted, without the place."""
    return [remark.text for remark in one.report.problems]


def notes(one: Section) -> list[str]:
    """What its report tells besides, without the place."""
    return [remark.text for remark in one.report.notes]
