"""How long tests wait: on an overloaded machine everything takes longer, and nothing is wrong."""

import time

PATIENCE_SECONDS = 60
"""How long what must happen may take. It ends waits that would have no end, and shows nothing else."""

_SAMPLE_SECONDS = 0.05


def stretched(seconds: float) -> float:
    """Return a limit that means something on an idle machine, prolonged by how overloaded this one is just now."""
    began, used = time.monotonic(), time.process_time()
    while time.process_time() - used < _SAMPLE_SECONDS:
        pass
    return seconds * max(1.0, (time.monotonic() - began) / _SAMPLE_SECONDS)
