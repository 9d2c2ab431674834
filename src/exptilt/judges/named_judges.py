"""Judges by the names the command line gives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from exptilt.errors import ConfigError
from exptilt.judges.judge_templates import judge_template
from exptilt.judges.remembered_judge import RememberedJudge
from exptilt.judges.reward_judge import RewardJudge
from exptilt.judges.server_judge import ServerJudge
from exptilt.judges.server_request import Sampled
from exptilt.judges.spending import Prices, SpendingLimit
from exptilt.judges.stored_votes import StoredVotes
from exptilt.judges.yardsticks import Coin, Longest
from exptilt.preferences import Judge, Reward
from exptilt.servers.endpoint import OPENAI, Endpoint
from exptilt.votes.vote_store import VoteStore


@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """What every judge of one command shares."""

    template: str = "better"
    questions: Sequence[str] = ()
    endpoint: Endpoint = field(default_factory=Endpoint)
    sampled: Sampled = field(default_factory=Sampled)
    prices: Prices = field(default_factory=Prices)
    budget: float | None = None
    replicates: int = 1
    ties: bool = True
    seed: int = 0


def named_judges(
    specs: Sequence[str | Judge], store: VoteStore, options: JudgeOptions, make_reward: Callable[[str], Reward]
) -> list[Judge]:
    """Judges of `--by`: server:MODEL[@URL], local:FOLDER, reward:WHICH, votes[:RATER], longest, coin.

    A server is asked each of the questions, as a judge of its own; all servers share one budget. The yardsticks
    `longest` and `coin` are added, since every table shows them.

    Args:
        specs: one for each judge; a judge itself, which Python code may give instead, is asked through the store.
        store: where verdicts are, and go.
        options: what all judges share.
        make_reward: makes the reward that stands after `reward:`.

    Raises:
        ConfigError: no such judge.
    """
    budget = SpendingLimit(limit=options.budget)
    judges: list[Judge] = []
    for spec in dict.fromkeys([*specs, "longest", "coin"]):
        if not isinstance(spec, str):
            judges.append(RememberedJudge(spec, store))
            continue
        form, _, rest = spec.partition(":")
        if form in ("server", "local") and rest:
            judges += [
                _model_judge(form, rest, question, store, options, budget) for question in options.questions or (None,)
            ]
        elif form == "reward" and rest:
            judges.append(RememberedJudge(RewardJudge(make_reward(rest)), store))
        elif form == "votes":
            judges.append(_stored(store, rest or None))
        elif spec == "longest":
            judges.append(Longest())
        elif spec == "coin":
            judges.append(Coin(options.seed))
        else:
            raise ConfigError(
                f"--by {spec}: no such judge; there are server:MODEL[@URL], local:FOLDER, reward:FILE.yaml or "
                "reward:MODULE:NAME, votes[:RATER], longest and coin"
            )
    return judges


def _model_judge(
    form: str, rest: str, question: str | None, store: VoteStore, options: JudgeOptions, budget: SpendingLimit
) -> Judge:
    template = judge_template(options.template, question)
    if form == "local":
        from exptilt.judges.local_judge import LocalJudge

        return RememberedJudge(LocalJudge(rest, template, seed=options.seed), store, template.vote_question)
    model, at, url = rest.rpartition("@")
    if not at or "://" not in url:  # models' names may hold an @
        model, url = rest, options.endpoint.base_url
    endpoint = replace(options.endpoint, base_url=url or OPENAI)
    return ServerJudge(
        model=model,
        template=template,
        store=store,
        endpoint=endpoint,
        sampled=options.sampled,
        prices=options.prices,
        budget=budget,
        replicates=options.replicates,
        ties=options.ties,
        seed=options.seed,
    )


def _stored(store: VoteStore, rater: str | None) -> StoredVotes:
    votes = store.votes()
    if rater is not None and rater not in {vote.rater.name for vote in votes}:
        known = ", ".join(sorted({vote.rater.name for vote in votes})[:8]) or "nobody"
        raise ConfigError(f"--by votes:{rater}: {store.name} has no votes of that rater; it has those of {known}")
    return StoredVotes(votes, rater)
