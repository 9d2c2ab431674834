"""The page over real HTTP: who may ask, what is stored, what a person reads when something is wrong."""

from __future__ import annotations

import html
import importlib.util
import io
import json
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.request

import pytest

from exptilt.cli import main
from exptilt.errors import DiskError
from exptilt.people.desk import Desk
from exptilt.settings.label_settings import LabelRules
from exptilt.votes.vote_store import VoteStore


def nonce_in(page: str) -> str:
    return re.search(r'name="nonce" value="([^"]+)"', page).group(1)


def test_the_page_process_has_nothing_heavy():
    heavy = ("torch", "transformers", "datasets", "scipy", "pandas")
    code = f"import sys, exptilt.verbs.label; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_votes_are_stored_blind_and_come_back_after_a_restart(open_page, pairs_file, tmp_path):
    pairs_file(3)
    page = open_page("pairs.jsonl", "--people", "anna", "ben", "--wanted", "2", "--repeats", "0", process=True)
    assert page.links.keys() == {"anna", "ben", "results"}
    status, text = page.ask("/", "anna")
    assert status == 200
    assert not re.search(r"chosen|rejected|pairs\.jsonl", text)
    shown = re.findall(r"(good|bad) answer \d", text)
    assert sorted(shown) == ["bad", "good"]
    nonce = nonce_in(text)
    status, after = page.ask(
        "/vote", "anna", {"nonce": nonce, "outcome": "first", "strength": "clearly", "note": "plain"}
    )
    assert (status, "Stored." in after) == (200, True)
    status, again = page.ask("/vote", "anna", {"nonce": nonce, "outcome": "second"})
    assert "counts once" in again
    assert page.stop() == "\n1 row in votes.db; next: exptilt pair votes.db\n"
    with VoteStore(tmp_path / "votes.db") as store:
        (vote,) = store.votes()
        comparison = store.comparisons()[vote.comparison]
    assert comparison.answers[vote.order[0]].startswith(shown[0])
    assert (vote.rater.name, vote.outcome, vote.strength, vote.note) == ("anna", "first", "clearly", "plain")
    later = open_page("pairs.jsonl", "--people", "anna", "ben", "--wanted", "2", "--repeats", "0")
    assert later.links["anna"].split("token=")[1] == page.links["anna"].split("token=")[1]
    assert "<b>1</b> done" in later.ask("/", "anna")[1]
    # Yesterday's tab.
    assert "counts once" in later.ask("/vote", "anna", {"nonce": nonce, "outcome": "second"})[1]
    assert later.ask("/vote", "ben", {"nonce": nonce, "outcome": "second"})[0] == 409


def test_who_may_ask(open_page, pairs_file):
    pairs_file(2)
    page = open_page("pairs.jsonl", "--people", "anna")
    assert page.ask("/")[0] == 401
    assert page.ask("/?token=wrong")[0] == 401
    assert page.ask("/", Cookie="exptilt-1=x; ;;=\x01")[0] == 401
    assert page.ask("/", "anna", Host="evil.example")[0] == 400
    assert page.ask("/", "anna", Host="[::1")[0] == 400
    nonce = page.nonce("anna")
    form = {"nonce": nonce, "outcome": "first"}
    for headers in (
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "none"},
        {"Sec_Fetch_Site": "", "Origin": "http://evil.example"},
        {"Sec_Fetch_Site": "", "Origin": "null"},
        {"Sec_Fetch_Site": ""},
    ):
        assert page.ask("/vote", "anna", form, **headers)[0] == 403, headers
    assert page.ask("/vote", None, form)[0] == 401
    assert page.ask("/vote", "anna", form | {"note": "x" * 300_000})[0] == 413
    assert page.ask("/vote", "anna", form | {"note": "x" * 10_001})[0] == 400
    assert page.ask("/vote", "anna", {"nonce": nonce, "outcome": "best"})[0] == 400
    assert page.ask("/vote", "anna", {"nonce": nonce})[0] == 400
    assert page.ask("/results", "anna")[0] == 403
    assert page.ask("/", "results")[0] == 200  # the owner is not given work, and reads results
    status, text = page.ask("/nowhere", "anna")
    assert (status, "no such page" in text) == (404, True)
    # What was refused stored nothing; with an Origin of its own an old browser may vote.
    assert "<b>0</b> done" in page.ask("/", "anna")[1]
    origin = {"Sec_Fetch_Site": "", "Origin": page.address}
    assert "<b>1</b> done" in page.ask("/vote", "anna", form, **origin)[1]


def test_headers_and_cookie_keep_the_page_to_itself(open_page, pairs_file):
    pairs_file(2)
    page = open_page("pairs.jsonl")
    (name,) = page.links
    _, headers, text = page.answer(page.links[name].removeprefix(page.address))
    cookie = headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert 'http-equiv="refresh" content="0;url=/"' in text  # a redirect would come without the strict cookie
    _, headers, _ = page.answer("/", name)
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers


def test_without_javascript_everything_is_a_form_or_a_link(open_page, pairs_file):
    pairs_file(2)
    page = open_page("pairs.jsonl", "--repeats", "0")
    (name,) = page.links
    text = page.ask("/", name)[1]
    assert re.findall(r'name="outcome" value="(\w*)"', text) == ["", "first", "tie", "second", "both_bad", "skip"]
    assert "<script>" not in text
    raw = page.ask("/?view=raw", name)[1]
    assert raw.count('<pre class="raw">') == 3
    marked = page.ask("/?view=diff", name)[1]
    assert sorted(re.findall(r"<mark>(.*?)</mark>", marked)) == ["bad", "good"]
    assert 'value="raw"' in page.ask("/vote", name, {"nonce": nonce_in(raw), "outcome": "tie", "view": "raw"})[1]
    assert "Taken back" in page.ask("/undo", name, {})[1]
    assert "<b>0</b> done" in page.ask("/", name)[1]
    for _ in range(2):
        page.vote(name, "skip")
    assert "That was all of it" in page.ask("/", name)[1]


def test_four_answers_are_ranked(open_page, tmp_path):
    row = {"prompt": "Q", "completions": ["one", "two", "three", "four"], "ranks": [1, 2, 3, 4]}
    (tmp_path / "ranked.jsonl").write_text(json.dumps(row) + "\n")
    page = open_page("ranked.jsonl")
    (name,) = page.links
    text = page.ask("/", name)[1]
    shown = [word for word in re.findall(r"<p>(\w+)</p>", text) if word in row["completions"]]
    form = {"nonce": nonce_in(text), "outcome": "rank", "answers": "4", "rank_0": "2", "rank_1": "1", "rank_2": "4"}
    assert page.ask("/vote", name, form)[0] == 400  # one has no rank
    assert page.ask("/vote", name, form | {"rank_3": "2"})[0] == 200
    with VoteStore(tmp_path / "votes.db") as store:
        (vote,) = store.votes()
        answers = store.comparisons()[vote.comparison].answers
    assert {answers[at]: rank for at, rank in zip(vote.order, vote.ranking, strict=True)} == {
        shown[0]: 2,
        shown[1]: 1,
        shown[2]: 3,
        shown[3]: 2,
    }


def test_pictures_and_masks_are_served_by_item_alone(open_page, tmp_path):
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "pictures").mkdir()
    image.new("RGB", (8, 8), (10, 20, 30)).save(tmp_path / "pictures" / "of-model-x.png")
    for name, level in (("a", 0), ("b", 1)):
        image.new("L", (8, 8), level).save(tmp_path / "pictures" / f"{name}.png")
    image.new("RGB", (2, 2)).save(tmp_path.parent / "outside.png")
    rows = [
        {
            "image": "pictures/of-model-x.png",
            "prompt": "Cells?",
            "chosen": "pictures/a.png",
            "rejected": "pictures/b.png",
        },
        {"image": "../outside.png", "prompt": "Cells?", "chosen": "x", "rejected": "y"},
    ]
    (tmp_path / "masks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = open_page("masks.jsonl")
    assert any("left out: 1 with a picture that is not in the folder" in line for line in page.printed)
    (name,) = page.links
    text = page.ask("/", name)[1]
    assert "model-x" not in text
    paths = sorted(set(re.findall(r'src="(/image/[0-9a-f]{64}/\d)"', text)))
    assert len(paths) == 3
    pixels = {}
    for path in paths:
        asked = urllib.request.Request(page.address + path, headers={"Cookie": page.cookie(name)})
        with urllib.request.urlopen(asked) as reply:
            assert reply.headers["content-type"] == "image/png"
            pixels[path] = image.open(io.BytesIO(reply.read())).convert("RGBA").getpixel((3, 3))
    assert [pixels[path] for path in paths] == [(10, 20, 30, 255), (0, 0, 0, 0), (255, 64, 0, 120)]
    stem = paths[0][:-1]
    for wrong in ("3", "99", "-1", "..%2f..%2foutside.png"):
        assert page.ask(stem + wrong, name)[0] in (404, 422)
    assert page.ask(paths[0])[0] == 401


def test_a_killed_page_loses_no_acknowledged_vote(open_page, pairs_file, tmp_path):
    pairs_file(20)
    acknowledged = 0
    for _kill in range(3):
        page = open_page("pairs.jsonl", "--people", "anna", "--repeats", "0", process=True)
        for _ in range(3):
            nonce = page.nonce("anna")
            for _ in range(2):
                assert page.ask("/vote", "anna", {"nonce": nonce, "outcome": "first"})[0] == 200
            acknowledged += 1
        page.process.send_signal(signal.SIGKILL)
        page.process.wait(timeout=30)
    with VoteStore(tmp_path / "votes.db") as store:
        votes = store.votes()
    assert len(votes) == len({vote.comparison for vote in votes}) == acknowledged == 9
    raw = sqlite3.connect(tmp_path / "votes.db")
    assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    raw.close()


def test_a_full_disk_keeps_the_vote_on_the_page(open_page, pairs_file, tmp_path):
    pairs_file(3)
    # A limit on the size of files stands for a full disk: SQLite's write fails in the middle of a vote.
    page = open_page("pairs.jsonl", "--people", "anna", "--repeats", "0", process=True)
    nonce = page.nonce("anna")
    resource = pytest.importorskip("resource")
    size = max((tmp_path / "votes.db-wal").stat().st_size, 1)
    resource.prlimit(page.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    form = {"nonce": nonce, "outcome": "second", "note": "keep <this>" + "x" * 9000}
    status, text = page.ask("/vote", "anna", form)
    assert status == 503
    assert "NOT stored" in text
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', text))
    assert html.unescape(fields["note"]) == form["note"]
    resource.prlimit(page.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert page.ask("/vote", "anna", {k: html.unescape(v) for k, v in fields.items()})[0] == 200
    with VoteStore(tmp_path / "votes.db") as store:
        assert [vote.outcome for vote in store.votes()] == ["second"]


@pytest.fixture
def refusal(tmp_path, monkeypatch, capsys):
    """`refusal(*arguments)`: what `exptilt label` says before it ends with status 2, one line."""

    def run(*arguments: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["exptilt", "label", *arguments, "--no-browser"])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return run


def test_what_cannot_be_opened_is_one_line(refusal, pairs_file, tmp_path):
    pairs_file(2)
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "single.jsonl").write_text('{"prompt": "Q", "completion": "only one"}\n')
    (tmp_path / "same.jsonl").write_text('{"prompt": "Q", "chosen": "x", "rejected": "x"}\n')
    (tmp_path / "other.jsonl").write_text('{"colour": "red"}\n')
    taken = socket.create_server(("127.0.0.1", 0))
    port = str(taken.getsockname()[1])
    with VoteStore(tmp_path / "newer.db"):
        pass
    raw = sqlite3.connect(tmp_path / "newer.db")
    raw.execute("UPDATE exptilt_votes SET version = 99")
    raw.commit()
    raw.close()
    for arguments, said in (
        (["empty.jsonl"], "empty"),
        (["single.jsonl"], "no two different answers"),
        (["same.jsonl"], "no two different answers"),
        (["other.jsonl"], "other.jsonl"),
        (["absent.jsonl"], "absent.jsonl"),
        ([], "sources"),
        (["pairs.jsonl", "--port", port], f"port {port} is in use"),
        (["pairs.jsonl", "--host", "0.0.0.0"], "--people"),
        (["pairs.jsonl", "--store", "newer.db"], "version 99"),
        (["pairs.jsonl", "--guide", "absent.md"], "absent.md"),
        (["pairs.jsonl", "--next", "best"], "random"),
        (["pairs.jsonl", "--next", "uncertain", "--store", "new.db"], "margin"),
        (["pairs.jsonl", "--people", "anna", "--people", "Anna"], "differ"),
        (["pairs.jsonl", "--known", "single.jsonl"], "known to be right"),
    ):
        assert said in refusal(*arguments), arguments
    taken.close()


def test_without_the_extra_it_says_what_to_install(refusal, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nh3" else find(name))
    assert "needs nh3: pip install 'exptilt[label]'" in refusal("pairs.jsonl")


def test_a_locked_and_a_read_only_store_are_one_line(pairs_file, tmp_path, monkeypatch):
    pairs_file(2)
    with VoteStore(tmp_path / "votes.db"):
        pass
    monkeypatch.setattr("exptilt.votes.vote_store._WAIT", 1)
    raw = sqlite3.connect(tmp_path / "votes.db", isolation_level=None)
    raw.execute("BEGIN IMMEDIATE")
    with pytest.raises(DiskError, match="locked"):
        Desk(VoteStore(tmp_path / "votes.db"), [], LabelRules())
    raw.execute("ROLLBACK")
    raw.close()
