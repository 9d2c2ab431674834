"""The arena: a person talks to two models at once, without knowing which is which, and votes after every turn.

Both models answer the same conversation. After a vote it goes on with the answer that was preferred, else with one that a hash
chooses; so a comparison's prompt is the whole conversation, and both of its answers are answers to it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import Literal

from exptilt.conversations.conversation import Conversation
from exptilt.data.turns import Message
from exptilt.people.draw_order import fraction
from exptilt.preferences import Comparison, Outcome
from exptilt.votes.vote_records import Rater, Vote, canonical_order
from exptilt.votes.vote_store import VoteStore

Answerer = Callable[[int, tuple[Message, ...], int], str]
"""The answer of model 0 or 1 to a conversation, the number-th that it gives to it."""


@dataclass(frozen=True)
class Exchange:
    """Two answers that wait for a vote."""

    comparison: Comparison
    """The answers stand in the order of the models."""
    order: tuple[int, ...]
    """Positions in the sorted answers, in the order shown."""
    nonce: str

    @property
    def answers(self) -> tuple[str, ...]:
        """The answers in the order shown."""
        in_order = sorted(self.comparison.answers)
        return tuple(in_order[at] for at in self.order)


@dataclass
class Talk:
    """What one person talks about right now."""

    conversation: Conversation
    number: int = 0
    """Conversations of this person before; each is answered with random numbers of its own."""
    waiting: Exchange | None = None
    votes: int = 0
    voted: set[str] = field(default_factory=set)
    lock: Lock = field(default_factory=Lock)


class Arena:
    """Asks two models, shows their answers in a hidden order, and stores votes.

    Args:
        store: where votes go.
        answerer: asks a model.
        names: of the two models, which nobody who votes is shown.
        system: the system prompt of every conversation.
        seed: of the order of sides.
    """

    def __init__(
        self, store: VoteStore, answerer: Answerer, names: tuple[str, str], system: str = "", seed: int = 0
    ) -> None:
        self.store = store
        self._answerer, self._names, self._system, self._seed = answerer, names, system, seed
        self._talks: dict[str, Talk] = {}
        self._pool = ThreadPoolExecutor()

    def talk(self, person: str) -> Talk:
        """Where a person is."""
        return self._talks.setdefault(person, Talk(Conversation(self._system)))

    def ask(self, person: str, turn: int, text: str) -> Literal["asked", "same", "old"]:
        """Say something, and wait for both answers.

        Args:
            person: who speaks.
            turn: how many turns were spoken when the person wrote it; a message that comes twice is asked once.
            text: not empty.

        Returns:
            "same" where both models gave the same answer, so that there is nothing to vote on; "old" for a message that belongs to
            an earlier page.

        Raises:
            ModelError: a model does not answer; nothing was said.
        """
        talk = self.talk(person)
        with talk.lock:
            if turn != len(talk.conversation) or talk.waiting is not None:
                return "old"
            talk.conversation.ask(text)
            turns = talk.conversation.turns
            try:
                asked = [self._pool.submit(self._answerer, model, turns, talk.number) for model in (0, 1)]
                first, second = (one.result() for one in asked)
            except BaseException:
                talk.conversation.take_back()
                raise
            if first == second:
                talk.conversation.answer(first)
                return "same"
            comparison = Comparison(turns, (first, second))
            order = (0, 1) if fraction("side", self._seed, person, comparison.id) < 0.5 else (1, 0)
            talk.waiting = Exchange(comparison, order, secrets.token_hex(16))
        return "asked"

    def vote(
        self, person: str, nonce: str, outcome: Outcome, *, strength: str = "", note: str = ""
    ) -> Literal["stored", "again", "unknown"]:
        """Store a vote, and go on with an answer; the vote is on disk when this returns.

        Raises:
            DiskError: the disk refuses; the vote is not stored, and the answers still wait for it.
        """
        talk = self.talk(person)
        with talk.lock:
            exchange = talk.waiting
            if exchange is None or exchange.nonce != nonce:
                return "again" if nonce in talk.voted else "unknown"
            vote = Vote(
                comparison=exchange.comparison.id,
                rater=Rater("person", person),
                order=exchange.order,
                outcome=outcome,
                strength=strength if outcome in ("first", "second") else "",
                note=note,
                nonce=nonce,
            )
            self.store.add(exchange.comparison, vote, sources=self._names)
            talk.voted.add(nonce)
            talk.votes += 1
            talk.waiting = None
            talk.conversation.answer(self._goes_on_with(exchange, outcome))
        return "stored"

    def begin_anew(self, person: str) -> None:
        """Forget the conversation, and answers that wait for a vote."""
        talk = self.talk(person)
        with talk.lock:
            talk.conversation.begin_anew()
            talk.number += 1
            talk.waiting = None

    def close(self) -> None:
        """Wait for answers that are under way."""
        self._pool.shutdown(cancel_futures=True)

    @staticmethod
    def _goes_on_with(exchange: Exchange, outcome: Outcome) -> str:
        at = {"first": 0, "second": 1}.get(outcome)
        return exchange.answers[at if at is not None else int(fraction("goes on", exchange.comparison.id) < 0.5)]


def model_shown_first(exchange: Exchange) -> int:
    """0 or 1: the model whose answer is shown first.

    Example:
        >>> model_shown_first(Exchange(Comparison("2 + 2?", ("b", "a")), (0, 1), "n"))
        1
    """
    return canonical_order(exchange.comparison).index(exchange.order[0])
