"""What is found of a deployment, line by line."""

from dataclasses import dataclass
from typing import Literal, override

type Verdict = Literal["ok", "advice", "FAULT"]


@dataclass(frozen=True)
class Finding:
    """One line of the result: what was looked at, what was found, and what to do about it."""

    verdict: Verdict
    subject: str
    text: str

    @override
    def __str__(self) -> str:
        """Return the line."""
        return f"{self.verdict:6}  {self.subject:10}  {' '.join(self.text.split())}"


CHECK_SECONDS = 30.0
"""How long the database, the model's server and Redis may each take."""
