"""What the README's performance figures are measured with: `uv run --group benchmarks python -m benchmarks`."""
