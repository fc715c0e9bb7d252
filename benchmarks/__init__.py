"""Measures the figures of docs/performance.md: `uv run --group benchmarks python -m benchmarks`."""
