"""`exptilt chat` as a person uses it: in a terminal of its own."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from exptilt.conversations.model_process import ModelProcess
from exptilt.sampling.sampling_law import SamplingLaw


class Terminal:
    """A pseudo-terminal with a command in it."""

    def __init__(self, *words: str) -> None:
        self._ours, theirs = pty.openpty()
        environment = {**os.environ, "TERM": "dumb"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "exptilt", *words],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            start_new_session=True,
            preexec_fn=_own_terminal,
        )
        os.close(theirs)

    def until(self, end: str, seconds: float = 90) -> str:
        """Everything that is printed up to `end`."""
        printed, stop = "", time.monotonic() + seconds
        while not printed.endswith(end):
            ready = select.select([self._ours], [], [], max(0, stop - time.monotonic()))[0]
            assert ready, f"no {end!r} after {printed!r}"
            printed += os.read(self._ours, 1).decode("latin-1")
        return printed.replace("\r\n", "\n")

    def say(self, text: str) -> str:
        """Type a line, and give what is printed up to the next prompt."""
        os.write(self._ours, text.encode() + b"\n")
        return self.until("> ").split("\n", 1)[1].removesuffix("> ")

    def press(self, key: bytes) -> None:
        os.write(self._ours, key)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)


def _own_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def terminal(talkers):
    opened = Terminal("chat", str(talkers[0]), "law.max_new_tokens=12", "--system", "Be kind.")
    yield opened
    opened.close()


def answer(models: ModelProcess, *said: str, **more) -> str:
    roles = ("user", "assistant")
    turns = [{"role": "system", "content": "Be kind."}]
    turns += [{"role": roles[at % 2], "content": text} for at, text in enumerate(said)]
    return "".join(models.answer("policy", turns, SamplingLaw(max_new_tokens=12), **more))


def test_a_chat_keeps_its_history_and_obeys_its_commands(terminal, models, tmp_path):
    terminal.until("> ")
    first, second = answer(models, "hello"), answer(models, "hello", index=1)
    terminal.say("hello")
    terminal.say("/again")
    third = answer(models, "hello", second, "and\nthe plot")
    os.write(terminal._ours, b"and\\\n")
    terminal.until("  ")
    terminal.say("the plot")
    assert "saved" in terminal.say(f"/save {tmp_path / 'chat.jsonl'}")
    assert "law.temperature=0.5" in terminal.say("/set law.temperature=0.5 seed=3")
    assert "temperature must be >= 0" in terminal.say("/set law.temperature=-1")
    assert "law.eos_ids cannot be changed" in terminal.say("/set law.eos_ids=[1]")
    assert "no such command" in terminal.say("/what")
    assert "a new conversation" in terminal.say("/reset")
    assert "nothing was said yet" in terminal.say(f"/save {tmp_path / 'chat.jsonl'}")
    terminal.press(b"\x04")
    assert terminal.process.wait(30) == 0
    (row,) = [json.loads(line) for line in (tmp_path / "chat.jsonl").read_text().splitlines()]
    assert [turn["content"] for turn in row["messages"]] == ["Be kind.", "hello", second, "and\nthe plot", third]
    assert first != second


def test_ctrl_c_ends_an_answer_and_not_the_chat(talkers, tmp_path):
    opened = Terminal("chat", str(talkers[0]), "law.max_new_tokens=240", "law.eos_ids=[]")
    try:
        opened.until("> ")
        os.write(opened._ours, b"hello\n")
        opened.until("hello\r\n")
        os.read(opened._ours, 1)  # the answer has begun
        opened.press(b"\x03")
        printed = opened.until("> ")
        assert "Traceback" not in printed
        assert re.search(r"\(stopped\)|\(cut after", printed)
        assert "saved" in opened.say(f"/save {tmp_path / 'chat.jsonl'}")
        opened.press(b"\x03")
        assert "ends the chat" in opened.until("> ")
    finally:
        opened.close()


def test_a_killed_model_is_one_line_and_the_chat_goes_on(terminal):
    terminal.until("> ")
    before = terminal.say("hello")
    number = terminal.process.pid
    children = Path(f"/proc/{number}/task/{number}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    time.sleep(0.5)
    terminal.say("/reset")
    assert terminal.say("hello") == before  # started again


def test_lines_of_a_file_are_answered_and_a_mistake_ends_it(talkers, models):
    words = [sys.executable, "-m", "exptilt", "chat", str(talkers[0]), "law.max_new_tokens=12", "--system", "Be kind."]
    done = subprocess.run(words, input="hello\n/nothing\nmore\n", capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr == "exptilt: /nothing: there is no such command; /help lists them\n"
    assert len(done.stdout.splitlines()) >= 1


def test_a_model_without_chat_template_is_told_in_one_line(talkers, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(talkers[0], bare)
    (bare / "chat_template.jinja").unlink()
    words = [sys.executable, "-m", "exptilt", "chat", str(bare), "law.max_new_tokens=4"]
    done = subprocess.run(words, input="hello\n", capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert done.stderr.startswith("note: the tokenizer of the policy has no chat template")
    assert done.stderr.count("\n") == 1
