"""Guard rails: the dangers a run is watched for, and the warnings it gives."""
