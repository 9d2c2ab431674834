"""Images with masks: manifests and folders, files, checks, and groups that read their files when they are asked for."""
