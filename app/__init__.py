"""The chat backend of an online textbook."""
