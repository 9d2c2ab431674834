"""Memory of large data: records on disk, digests instead of texts."""
