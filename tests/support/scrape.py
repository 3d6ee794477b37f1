"""Reads a process's metrics as Prometheus would."""

from __future__ import annotations

import httpx2
from prometheus_client.parser import text_string_to_metric_families

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Scraped:
    """The samples of one endpoint at one moment."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples: Samples = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name whose labels agree."""
        return sum(value for (found, pairs), value in self.samples.items() if found == name and labels.items() <= dict(pairs).items())

    def label_values(self, name: str) -> set[str]:
        return {value for (_, pairs) in self.samples for label, value in pairs if label == name}


async def scrape(port: int) -> Scraped:
    async with httpx2.AsyncClient() as http:
        return Scraped((await http.get(f"http://127.0.0.1:{port}/metrics")).raise_for_status().text)
