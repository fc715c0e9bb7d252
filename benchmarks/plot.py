"""The plot of latency against concurrency."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles

from matplotlib.figure import Figure


def percentile_95(values: Sequence[float]) -> float:
    """Return the value that 95 % stay below."""
    return quantiles(values, n=20, method="inclusive")[-1]


def draw(
    path: Path, concurrencies: Sequence[int], seconds: Mapping[str, Sequence[Sequence[float]]], *, model_seconds: float
) -> None:
    """Plot the median and the 95th percentile of each server's seconds by how many turns were under way, as a PNG."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for (server, of_server), colour in zip(seconds.items(), ("tab:blue", "tab:orange"), strict=True):
        axes.plot(
            concurrencies, [median(values) for values in of_server], "o-", color=colour, label=f"{server}, median"
        )
        axes.plot(
            concurrencies, [percentile_95(values) for values in of_server], "o:", color=colour, label=f"{server}, p95"
        )
    axes.axhline(model_seconds, color="grey", linewidth=1, label="the model alone")
    axes.set(xlabel="turns under way at once", ylabel="seconds per turn", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
