"""Whether a path lies on a network disk, where SQLite's locks and its write-ahead log cannot be trusted."""

from __future__ import annotations

import os
import re
from pathlib import Path

_NETWORK = re.compile(
    r"nfs\d*|cifs|smb\w*|afs|ncpfs|ceph|glusterfs|lustre|gpfs|beegfs|9p|afpfs|webdav|davfs\d*|pvfs2|orangefs|"
    r"fuse\.(sshfs|glusterfs|ceph\S*|s3fs|gcsfuse|rclone|davfs\d*|juicefs|goofys|blobfuse\d*|moosefs|lizardfs)"
)


def network_file_system(path: Path, mounts: Path = Path("/proc/mounts")) -> str | None:
    """The type of the network file system a path lies on; None for a local disk or where the system does not say.

    Args:
        path: need not exist.
        mounts: the system's table of mounts.
    """
    where = os.path.realpath(path)
    best, kind = "", None
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return None
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = re.sub(r"\\(\d{3})", lambda code: chr(int(code.group(1), 8)), fields[1])
        inside = where == point or where.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):  # a later mount hides an earlier one
            best, kind = point, fields[2]
    return kind if kind is not None and _NETWORK.fullmatch(kind) else None
