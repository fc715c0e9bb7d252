"""The book: reading it in, and finding the passages that a question needs."""
