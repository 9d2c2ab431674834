"""A model behind an OpenAI-compatible server as judge: vLLM, SGLang, llama.cpp, `transformers serve`, a hosted one.

Every call is in the store before its verdict is given, together with the vote; a request that was answered is never sent
again, so a killed run goes on and pays at most the calls in flight twice. A reply cut by length is stored, never served,
and asked again with twice the tokens; where no attempt gives a well-formed verdict, the vote is `unscored`. A later run asks
for it once more, and its vote then takes the unscored one back.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from exptilt.errors import Stopped
from exptilt.judges.judge_templates import JudgeTemplate
from exptilt.judges.server_request import OPTIONAL, Sampled, pair_request, request_key, rubric_request
from exptilt.judges.slots import BOTH_ORDERS, AskedPair, asked, in_callers_order
from exptilt.judges.spending import Prices, SpendingLimit, estimated_tokens
from exptilt.judges.token_probability import first_probability
from exptilt.judges.verdict_parsing import Parsed, parse_rating, parse_verdict
from exptilt.preferences import Comparison, Outcome, Verdict
from exptilt.servers.background_calls import run_to_end
from exptilt.servers.endpoint import Endpoint
from exptilt.servers.server_client import ServerClient, ServerReply
from exptilt.votes.vote_records import Call, Rater, vote_of
from exptilt.votes.vote_store import VoteStore

_ATTEMPTS = 5
"""Requests for one verdict at most; the `openai` package retries faults of transport below this."""

_CUT = "cut by length"
_MOMENT = 0.01
"""Seconds."""
_DEAD = 20
"""Calls in a row that fail after their retries, or twice as many as are in flight, until a server is taken for dead."""


@dataclass(frozen=True)
class JudgeWork:
    """What a judge would do before it does it."""

    verdicts: int
    stored: int
    """Verdicts that no call is needed for."""
    calls: int
    prompt_tokens: int
    completion_tokens: int
    """The most there can be, if every reply fills its limit."""
    cost: float


@dataclass(kw_only=True)
class ServerJudge:
    """Asks a model which of two answers is better, in both orders."""

    model: str
    template: JudgeTemplate
    store: VoteStore
    endpoint: Endpoint = field(default_factory=Endpoint)
    sampled: Sampled = field(default_factory=Sampled)
    prices: Prices = field(default_factory=Prices)
    budget: SpendingLimit = field(default_factory=SpendingLimit)
    replicates: int = 1
    ties: bool = True
    seed: int = 0
    """Of labels and orders."""
    progress: Callable[[int], None] = lambda done: None
    """Called with the number of verdicts that are done."""

    def __post_init__(self) -> None:
        self._usable = {call.key: call for call in self.store.calls(usable=True)}
        self._voted = {vote.nonce for vote in self.store.votes(superseded=True)}
        self._unstored: dict[str, Call] = {}
        self._in_flight = self._failed_in_a_row = 0
        self._pending: dict[str, asyncio.Future[Call | None]] = {}
        self.faults: dict[str, int] = {}
        """Why calls gave no verdict, with how often."""

    @property
    def name(self) -> str:
        """The model's."""
        return self.model

    @property
    def identity(self) -> str:
        """Server, model, template and parameters."""
        kind = "rubric" if self.template.is_rubric else f"pairs {'with' if self.ties else 'without'} ties"
        sampled = f"T={self.sampled.temperature:g} max_tokens={self.sampled.max_tokens} seed={self.sampled.seed}"
        return f"server {self.endpoint.base_url} {self.model} template {self.template.digest[:16]} {kind} {sampled}"

    def work(self, comparisons: Iterable[Comparison]) -> JudgeWork:
        """Calls, tokens and cost of what is not in the store yet."""
        verdicts = stored = tokens = 0
        for comparison in comparisons:
            for one in self._questions(comparison):
                verdicts += 1
                missing = [request for key, request in self._requests(one) if key not in self._usable]
                stored += not missing
                tokens += sum(_prompt_tokens(request) for request in missing)
        per_verdict = 2 if self.template.is_rubric else 1
        calls = (verdicts - stored) * per_verdict
        most = calls * self.sampled.max_tokens
        return JudgeWork(verdicts, stored, calls, tokens, most, self.prices.cost(tokens, most))

    def __call__(self, comparisons: Iterable[Comparison]) -> Iterator[Verdict]:
        """Verdicts in both orders and all replicates; those that are in the store cost nothing.

        Raises:
            ConfigError: no server, no such model, a refused key.
            Stopped: the budget does not reach; what was asked is stored.
        """
        waiting = list(comparisons)
        yield from run_to_end(self._all(waiting))

    async def _all(self, comparisons: list[Comparison]) -> list[Verdict]:
        pairs = [(comparison, one) for comparison in comparisons for one in self._questions(comparison)]
        if all(key in self._usable for _, one in pairs for key, _ in self._requests(one)):
            return [await self._verdict(None, comparison, one) for comparison, one in pairs]
        self._pending.clear()
        waiting, stop = iter(enumerate(pairs)), asyncio.Event()
        verdicts: list[Verdict | None] = [None] * len(pairs)
        async with ServerClient(self.endpoint) as client:

            async def work() -> None:
                for index, (comparison, one) in waiting:  # shared: each question goes to one worker
                    if stop.is_set():
                        return
                    verdicts[index] = await self._verdict(client, comparison, one)
                    self.progress(1)

            workers = [asyncio.create_task(work()) for _ in range(self.endpoint.concurrency)]
            try:
                await asyncio.gather(*workers)
            except BaseException:
                stop.set()  # those in flight are finished and stored, no more are begun
                await asyncio.gather(*workers, return_exceptions=True)
                raise
        return [verdict for verdict in verdicts if verdict is not None]

    def _questions(self, comparison: Comparison) -> Iterator[AskedPair]:
        for replicate in range(self.replicates):
            for order in BOTH_ORDERS:
                yield asked(comparison, order, replicate, self.seed)

    def _requests(self, one: AskedPair) -> list[tuple[str, dict[str, Any]]]:
        """The requests of one verdict with their keys: one for a pair, two where answers are rated."""
        sampled = replace(self.sampled, seed=self.sampled.seed + one.replicate)
        if self.template.is_rubric:
            requests = [
                rubric_request(self.model, self.template, one.comparison.prompt, answer, sampled)
                for answer in (one.first, one.second)
            ]
            # A rating does not depend on the order, so both orders share it.
            asked_as: dict[str, Any] = {"replicate": one.replicate}
        else:
            requests = [pair_request(self.model, self.template, one, sampled, ties=self.ties)]
            asked_as = {"order": list(one.order), "replicate": one.replicate}
        return [(request_key(each, self.endpoint.base_url, self.template, **asked_as), each) for each in requests]

    async def _verdict(self, client: ServerClient | None, comparison: Comparison, one: AskedPair) -> Verdict:
        calls = [await self._shared_call(client, key, request, one) for key, request in self._requests(one)]
        found = self._read(calls, one)
        shown = in_callers_order(comparison, one.order)
        outcome, probability, reason = found or ("unscored", None, "")
        verdict = Verdict(
            comparison=comparison.id, order=shown, outcome=outcome, probability=probability, reason=reason
        )
        self._keep(comparison, verdict, one)
        return verdict

    def _keep(self, comparison: Comparison, verdict: Verdict, one: AskedPair) -> None:
        """Store a vote, in one transaction with the call that was paid for it."""
        keys = [key for key, _ in self._requests(one)]
        nonce = keys[0] if len(keys) == 1 else f"{keys[0][:60]}-{keys[1][:60]}-{verdict.order[0]}"
        unscored = f"unscored-{nonce}"
        supersedes = unscored if unscored in self._voted and verdict.outcome != "unscored" else None
        nonce = unscored if verdict.outcome == "unscored" else nonce
        if nonce not in self._voted:
            rater = Rater("judge", self.name, self.identity)
            more = {"question": self.template.vote_question, "replicate": one.replicate, "supersedes": supersedes}
            vote = vote_of(comparison, verdict, rater, nonce, **more)
            self.store.add(comparison, vote, [self._unstored.pop(key) for key in keys if key in self._unstored])
            self._voted.add(nonce)

    async def _shared_call(
        self, client: ServerClient | None, key: str, request: dict[str, Any], one: AskedPair
    ) -> Call | None:
        """A usable reply, from the store or from the server; a request that another verdict waits for is not sent twice."""
        if key in self._usable or client is None:
            return self._usable.get(key)
        if key not in self._pending:
            self._pending[key] = asyncio.ensure_future(self._call(client, key, request, one))
        return await self._pending[key]

    async def _call(self, client: ServerClient, key: str, request: dict[str, Any], one: AskedPair) -> Call | None:
        """Ask until a reply is usable; None where no attempt gives one."""
        cuts = 0
        for _ in range(_ATTEMPTS):
            reply = await self._sent(client, request | {"max_tokens": request["max_tokens"] * 2 ** min(cuts, 2)})
            fault = reply.fault or self._fault(reply, one)
            call = _as_call(key, reply, self.prices, usable=not fault)
            if not fault:
                self._usable[key] = self._unstored[key] = call
                if self.template.is_rubric:  # its vote waits for another call
                    self.store.add_call(self._unstored.pop(key))
                return call
            self.store.add_call(call)
            cuts += fault == _CUT  # a reasoning model may need more room
            self.faults[fault] = self.faults.get(fault, 0) + 1
            if reply.exhausted:
                break
        return None

    async def _sent(self, client: ServerClient, request: dict[str, Any]) -> ServerReply:
        most = self.prices.cost(_prompt_tokens(request), request["max_tokens"])
        while not self.budget.reserve(most):
            if not self._in_flight:
                raise Stopped(
                    f"the budget of {self.budget.limit:g} does not reach for the next call ({self.budget.spent:.4g} are "
                    "spent); every verdict so far is stored: raise --budget and give the same command to go on"
                )
            await asyncio.sleep(_MOMENT)  # calls in flight cost less than the most that was set aside for them
        reply = None
        self._in_flight += 1
        try:
            reply = await client.ask(request, OPTIONAL)
        finally:
            self._in_flight -= 1
            # Without an answer nobody knows what was charged: the most is assumed.
            self.budget.settle(most, _cost(reply, self.prices) if reply is not None and reply.body else most)
        self._require_alive(reply)
        return reply

    def _require_alive(self, reply: ServerReply) -> None:
        """Stop where a server has died: every further call would wait for its retries, and be unscored."""
        self._failed_in_a_row = self._failed_in_a_row + 1 if reply.exhausted and not reply.refused else 0
        if self._failed_in_a_row >= max(_DEAD, 2 * self.endpoint.concurrency):
            raise Stopped(
                f"{self.endpoint.host}: {self._failed_in_a_row} calls in a row failed after all retries ({reply.fault[:80]}); "
                "every verdict so far is stored: give the same command to go on"
            )

    def _fault(self, reply: ServerReply, one: AskedPair) -> str:
        if reply.choice.get("finish_reason") == "length":
            return _CUT
        if reply.message.get("refusal"):
            return "refused"
        readable = parse_rating(reply.text) if self.template.is_rubric else parse_verdict(reply.text, one.labels)
        return "" if readable is not None else "no well-formed verdict"

    def _read(self, calls: list[Call | None], one: AskedPair) -> tuple[Outcome, float | None, str] | None:
        if any(call is None for call in calls):
            return None
        bodies = [ServerReply({}, json.loads(call.reply)) for call in calls if call is not None]
        if self.template.is_rubric:
            ratings = [parse_rating(body.text) or 0 for body in bodies]
            outcome: Outcome = "tie" if ratings[0] == ratings[1] else "first" if ratings[0] > ratings[1] else "second"
            return outcome, None, f"{ratings[0]} against {ratings[1]}"
        parsed: Parsed | None = parse_verdict(bodies[0].text, one.labels)
        if parsed is None:
            return None
        tokens = (bodies[0].choice.get("logprobs") or {}).get("content")
        probability = None if parsed.outcome == "tie" else first_probability(tokens, parsed.start, one.labels)
        return parsed.outcome, probability, parsed.reason


def _prompt_tokens(request: dict[str, Any]) -> int:
    return sum(estimated_tokens(message["content"]) for message in request["messages"])


def _cost(reply: ServerReply, prices: Prices) -> float:
    return prices.cost(reply.usage.get("prompt_tokens", 0), reply.usage.get("completion_tokens", 0))


def _as_call(key: str, reply: ServerReply, prices: Prices, *, usable: bool) -> Call:
    return Call(
        key=key,
        request=json.dumps(reply.sent, sort_keys=True),
        reply=json.dumps(reply.body) if reply.body else reply.fault,
        model=str(reply.body.get("model") or ""),
        prompt_tokens=reply.usage.get("prompt_tokens"),
        completion_tokens=reply.usage.get("completion_tokens"),
        cost=_cost(reply, prices),
        seconds=reply.seconds,
        finish_reason=str(reply.choice.get("finish_reason") or reply.fault)[:40],
        usable=usable,
    )
