"""Verdicts under SIGKILL: none lost, none asked twice but those in flight.

    python benchmarks/judge_kills.py --calls 2000 --kills 10 --concurrency 32

A server counts how often each request comes. A judge process is started and killed at random moments; after the last kill
it runs to its end. Then every verdict is stored once, and a request came twice only if it was in flight at a kill.
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_CHILD = """
import sys
from exptilt.judges.judge_templates import judge_template
from exptilt.servers.endpoint import Endpoint
from exptilt.judges.server_judge import ServerJudge
from exptilt.preferences import Comparison
from exptilt.votes.vote_store import VoteStore

url, where, pairs, concurrency = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
with VoteStore(where) as store:
    judge = ServerJudge(
        model="m", template=judge_template("better"), store=store, endpoint=Endpoint(base_url=url, concurrency=concurrency)
    )
    for verdict in judge(Comparison(f"q{k}", ("good", "bad")) for k in range(pairs)):
        assert verdict.winner == 0, verdict
"""


def run(calls: int, kills: int, concurrency: int, seed: int = 0) -> dict[str, int]:
    """Kill a judge again and again; returns what was counted."""
    spec = importlib.util.spec_from_file_location(
        "judge_server", Path(__file__).parents[1] / "tests" / "judges" / "judge_server.py"
    )
    assert spec is not None
    assert spec.loader is not None
    server_module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(server_module)
    rng = random.Random(seed)
    environment = {k: v for k, v in os.environ.items() if k != "OPENAI_API_KEY"}

    def choose(_text: str, first: str, second: str, one: str, _other: str) -> str:
        return server_module.reply(first if one == "good" else second)

    with tempfile.TemporaryDirectory() as folder, server_module.JudgeServer(choose, latency=0.02) as server:
        where = Path(folder) / "votes.db"
        command = [sys.executable, "-c", _CHILD, server.url, str(where), str(calls // 2), str(concurrency)]
        killed = 0
        for number in range(kills):
            child = subprocess.Popen(command, env=environment)
            target = min(calls - 1, (number + 1) * calls // (kills + 1)) + rng.randrange(
                max(1, calls // (kills + 1) // 3)
            )
            while child.poll() is None and server.calls < target:
                time.sleep(0.005)
            if child.poll() is None:
                os.kill(child.pid, signal.SIGKILL)
                killed += 1
            child.wait()
        subprocess.run(command, env=environment, check=True)
        times = collections.Counter(json.dumps(request["messages"]) for request in server.requests)
        before = server.calls
        subprocess.run(command, env=environment, check=True)
        from exptilt.votes.vote_store import VoteStore

        with VoteStore(where) as store:
            votes = store.votes()
        return {
            "kills": killed,
            "requests": len(times),
            "votes": len({(vote.comparison, vote.order) for vote in votes}),
            "duplicate votes": len(votes) - len({(vote.comparison, vote.order) for vote in votes}),
            "asked twice": sum(count - 1 for count in times.values()),
            "most that may be": killed * concurrency,
            "calls of a second run": server.calls - before,
        }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--concurrency", type=int, default=32)
    counted = run(**vars(parser.parse_args()))
    print(json.dumps(counted, indent=1))
    good = counted["requests"] == counted["votes"] and counted["asked twice"] <= counted["most that may be"]
    sys.exit(0 if good and counted["calls of a second run"] == counted["duplicate votes"] == 0 else 1)
