"""The RAG model: assembling, saving, loading, and generating answers."""
