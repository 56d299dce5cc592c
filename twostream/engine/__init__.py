"""Running a network over batches, and what a run keeps on disk."""
