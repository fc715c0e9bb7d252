"""What the README's performance figures are measured with: `uv run python -m benchmarks`."""
