"""Packages beside exptilt that break what it stands on: found before a run, not inside an import of transformers."""

from __future__ import annotations

import importlib

from exptilt.run_folder.data_record import Finding
from exptilt.wording import in_one_line


def installation_findings() -> list[Finding]:
    """Warnings about the installation; none where torchvision is absent, which exptilt never needs, or loads.

    The torchvision of PyPI is built for CUDA and does not load beside a CPU build of torch; transformers, TRL and torchmetrics import
    it wherever it is installed, and fail then.
    """
    fault = _torchvision_fault()
    if fault is None:
        return []
    return [
        Finding(
            code="broken_torchvision",
            severity="warning",
            count=1,
            message=f"torchvision is installed and does not load ({fault}), so models of transformers and TRL may fail to import",
            fix="pip uninstall torchvision, which exptilt never needs, or install the build that belongs to this torch",
        )
    ]


def _torchvision_fault() -> str | None:
    try:
        importlib.import_module("torchvision")
        import torch

        torch.ops.torchvision.nms  # noqa: B018 - looked up in the library of operators
    except ModuleNotFoundError as error:
        return None if error.name == "torchvision" else in_one_line(error)
    except Exception as error:  # whatever another package's import raises
        return in_one_line(error)
    return None
