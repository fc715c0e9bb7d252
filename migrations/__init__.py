"""The migrations, and what they have in common."""
