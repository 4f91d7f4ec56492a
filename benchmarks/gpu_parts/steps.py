"""To be written."""

from gpu_parts.part import Part


def run(part: Part) -> None:
    part.note('to be written')
