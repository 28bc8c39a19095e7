"""Figures that a service shows of itself, read as numbers."""

from __future__ import annotations

import re

from faults.rig import Rig

_SAMPLE = re.compile(r"^(?P<name>\w+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)$", re.MULTILINE)


async def shown(rig: Rig, service: str, name: str, **labels: str) -> float:
    """The sum of a counter's, or gauge's, samples with these labels; 0 where there are none.

    Of all processes of the service.
    """
    texts = [await rig.metrics(process) for process in rig.processes(service)]
    return sum(added_up(text, name, **labels) for text in texts)


def added_up(text: str, name: str, **labels: str) -> float:
    """The same of a Prometheus text."""
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    return sum(
        float(sample["value"])
        for sample in _SAMPLE.finditer(text)
        if sample["name"] == name and all(each in (sample["labels"] or "") for each in wanted)
    )
