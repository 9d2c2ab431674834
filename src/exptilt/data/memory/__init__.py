"""Large data in little memory: records spill to disk, digests stand for texts."""
