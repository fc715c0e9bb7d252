"""The book: reading it in, and finding the passages that answer a question."""
