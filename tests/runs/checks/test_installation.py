"""A torchvision that does not load is told before a run; one that is absent or loads is not."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest

from exptilt.runs.checks.installation import installation_findings

CUDA_BUILD = "raise RuntimeError('operator torchvision::nms does not exist')\n"
WITHOUT_OPERATORS = "__version__ = '0.28.0'\n"
NEEDS_MORE = "import no_such_module_of_torchvision\n"


@pytest.fixture
def torchvision(tmp_path, monkeypatch):
    """Put a module of that name on the path."""

    def put(content):
        (tmp_path / "torchvision").mkdir()
        (tmp_path / "torchvision" / "__init__.py").write_text(content)
        monkeypatch.syspath_prepend(str(tmp_path))

    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    yield put
    sys.modules.pop("torchvision", None)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (CUDA_BUILD, "operator torchvision::nms does not exist"),
        (WITHOUT_OPERATORS, "nms"),
        (NEEDS_MORE, "no_such_module_of_torchvision"),
    ],
)
def test_a_broken_torchvision_is_a_warning(torchvision, content, words):
    torchvision(content)
    (finding,) = installation_findings()
    assert finding.severity == "warning"
    assert words in finding.message
    assert "pip uninstall torchvision" in finding.fix
    assert len(str(finding)) < 300


def test_without_torchvision_there_is_nothing_to_say(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    assert installation_findings() == []


def test_doctor_says_it(torchvision, tmp_path):
    """The command itself, with the module on its path: a warning beside the report, and no refusal."""
    torchvision(CUDA_BUILD)
    rows = [{"prompt": f"p{at}", "chosen": "yes", "rejected": "no"} for at in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        from exptilt.cli import app
        app(["doctor", "rows.jsonl", "--json"])
    """)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    codes = [finding["code"] for finding in json.loads(done.stdout)["findings"]]
    assert "broken_torchvision" in codes
