"""What a loss is: a frozen, callable dataclass of hyper-parameters that sees log-probabilities only.

A loss belongs to one `kind` (`exptilt.kinds`), which says what it is called with:

    pair         loss(policy: Pair, reference: Pair | None) -> PairLoss
    completion   loss(policy: LogProbs, reference: LogProbs | None) -> CompletionLoss
    unpaired     loss(policy: LogProbs, reference: LogProbs, desirable: (B,) bool) -> CompletionLoss
    list         loss(policy: LogProbs, reference: LogProbs | None, sizes: (G,) int) -> ListLoss
    rollout      loss(policy: LogProbs, reference: LogProbs | None, sizes: (G,) int) -> RolloutLoss
    reward       loss(chosen: (B,), rejected: (B,)) -> PairLoss                          scores of a reward model
    reward_list  loss(rewards: (B,), sizes: (G,) int) -> ListLoss

and further keyword arguments, those named in its `inputs`:

    margin                 (B,) how much better the chosen completion is, > 0                    (pair, reward)
    chosen_score, rejected_score   (B,) a score of each completion                                       (pair)
    chosen_is_policy       (B,) bool, True where the chosen completion was sampled from the policy       (pair)
    mismatched, mismatched_reference   LogProbs of completions under the prompts of other rows           (unpaired)
    prompt                 LogProbs of the tokens of each prompt but the first   (kinds with a fixed number of completions)
    ranks                  (B,) 1 is best, equal ranks are ties, per group                  (list, reward_list)
    scores                 (B,) larger is better; of samples their rewards                      (list, rollout)
    behaviour              (N,) log-probabilities of tokens under the policy that drew them, nats     (rollout)
    advantages, returns, values    (N,) of tokens, from a critic                                      (rollout)

The objective of a batch is the mean of the per-example losses, weighted by the weights of the rows (and by `weight`
where the result has one). It is defined on the whole global batch: a loss whose `couples_batch` is true must see the
whole batch in one call, any other may see it in pieces.

A loss whose `couples_batch` is true is also called with

    weights                (B,) what each row counts for, >= 0; None means 1 for each

and every mean, sort and sum over the batch inside it counts a row that often: weight 2 is the row twice, weight 0 is
the row absent. A loss whose `takes_keys` is true draws rows at random and is also called with

    keys                   (B,) int64, a number that belongs to the content of the row, which decides about its draw

A loss whose `is_stateful` is true carries numbers from step to step. They are never inside the object:

    state = loss.initial_state()                        before the first step; a dict of floats, for the checkpoint
    out = loss(policy, reference, state=state)          None means the initial state
    state = loss.next_state(state, policy, reference)   after the step, from the same whole batch (and its `weights`)

A stateful loss that does not couple the batch sees it in pieces. It sets `follows_means`, and its state follows the means of
what it measured over the whole batch (`RolloutLoss.measured`):

    state = loss.state_after(state, means)              after the step
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from exptilt.construction import told
from exptilt.errors import ConfigError
from exptilt.kinds import Kind
from exptilt.types import LogProbs, LossResult, Pair, PairLoss, at_least_float32

State = dict[str, float]
Normalization = Literal["token", "sequence", "sum"]
"""How a negative log-likelihood is counted: tokens of the batch alike, completions by their mean, or by their sum."""


class _Told(type):
    """Makes losses; what is wrong with a setting is one line."""

    def __call__(cls, *args: Any, **given: Any) -> Any:
        try:
            return super().__call__(*args, **given)
        except (TypeError, ValueError) as error:
            if not dataclasses.is_dataclass(cls) or isinstance(error, ConfigError):
                raise
            raise told(cls, error, args, given) from None


class Loss(metaclass=_Told):
    """Base of every loss: the class attributes the loop reads, and nothing else.

    Combinators and losses with an option that changes the answer make some of these properties of the instance, so read
    them there.
    """

    name: str
    kind: ClassVar[Kind]
    needs_reference: ClassVar[bool] = True
    """False where the formula has no reference in it."""
    needs_lengths: ClassVar[bool] = False
    """True where the number of counted units enters the formula."""
    needs_tokens: ClassVar[bool] = False
    """True where sums do not suffice (token-level losses)."""
    byproducts: ClassVar[tuple[str, ...]] = ()
    """Optional fields of `LogProbs` the policy must fill: entropy, log_sum_squares, divergence."""
    inputs: ClassVar[tuple[str, ...]] = ()
    """Names of further keyword arguments the call needs; the vocabulary is in this module's docstring."""
    if_missing: ClassVar[Mapping[str, float]] = MappingProxyType({})
    """Of `inputs`, those that a row may lack, with the number that then stands for them; rows must have the others."""
    couples_batch: ClassVar[bool] = False
    """True where one example's loss depends on the others: the loop then forms it over the whole global batch."""
    takes_keys: ClassVar[bool] = False
    """True where rows are drawn at random and the call takes `keys`, to which draws belong."""
    holds_likelihoods: ClassVar[bool] = False
    """True of anchors and other terms on absolute likelihoods: they read all units of a completion, also where a contrast reads
    only those in which the completions of a row differ."""
    is_stateful: ClassVar[bool] = False
    """True where the call takes `state` and there are `initial_state` and `next_state`."""
    follows_means: ClassVar[bool] = False
    """True of a stateful loss that has `state_after` instead of `next_state`, which takes the means of the step's metrics."""

    def from_sums(
        self,
        chosen: Tensor,
        rejected: Tensor,
        ref_chosen: Tensor | None = None,
        ref_rejected: Tensor | None = None,
        **inputs: Tensor,
    ) -> PairLoss:
        """A loss on pairs as a function of plain tensors: the summed log-probabilities of B pairs.

        Args:
            chosen: (B,) nats, log pi(y|x) of the chosen completions, summed over their tokens.
            rejected: (B,) of the rejected ones.
            ref_chosen: (B,) the same under the reference; not needed by a loss without one.
            ref_rejected: (B,) of the rejected ones.
            inputs: what else the loss takes, by name (`inputs`), and the `state` of a stateful one.

        Raises:
            ValueError: the loss is not on pairs, needs lengths or tokens, or a tensor is missing or of another shape.

        Example:
            >>> from exptilt.losses import DPO
            >>> sums = [torch.tensor([total]) for total in (-8.0, -14.0, -10.0, -12.0)]
            >>> round(DPO(beta=0.1).from_sums(*sums).loss.item(), 6)
            0.513015
        """
        _require_sums(self)
        policy = _pair_of_sums(chosen, rejected, "chosen", "rejected")
        reference = None
        if self.needs_reference:
            missing = [n for n, t in (("ref_chosen", ref_chosen), ("ref_rejected", ref_rejected)) if t is None]
            if missing or ref_chosen is None or ref_rejected is None:
                raise ValueError(f"{' and '.join(missing)} missing: {self.name} compares the policy with a reference")
            reference = _pair_of_sums(ref_chosen, ref_rejected, "ref_chosen", "ref_rejected", like=chosen)
        form: Any = self
        result: PairLoss = form(policy, reference, **inputs)
        return result

    @property
    def sums_suffice(self) -> bool:
        """Whether each completion's summed log-probability is all it reads."""
        return not (self.needs_tokens or self.byproducts)

    @property
    def needs_distributions(self) -> bool:
        """Whether it reads the full distributions of the reference, which must then be run in every step."""
        return not {"divergence", "kl"}.isdisjoint(self.byproducts)

    @property
    def mixes_rows(self) -> bool:
        """Whether it also reads completions under the prompts of other rows."""
        return "mismatched" in self.inputs

    @property
    def reads_prompt(self) -> bool:
        """Whether it also reads the log-probabilities of the prompt's own tokens."""
        return "prompt" in self.inputs

    @property
    def extra_completions(self) -> int:
        """How many completions are scored for each row beside its own: a mismatched one, the prompt."""
        return self.mixes_rows + self.reads_prompt

    @property
    def needs_two(self) -> Literal["prompts", "labels"] | None:
        """What every batch must hold two different ones of; None where any batch will do."""
        return "prompts" if self.mixes_rows else None


def _require_sums(loss: Loss) -> None:
    """Refuse a loss that four columns of sums do not determine, in one line that says what to call."""
    if not loss.kind.is_paired or loss.kind.scores:
        raise ValueError(f"from_sums: {loss.name} is of kind {loss.kind}, not a loss on pairs")
    wanted = "tokens" if not loss.sums_suffice else "lengths" if loss.needs_lengths else None
    if loss.reads_prompt:
        raise ValueError(
            f"from_sums: {loss.name} reads the prompt; call it with `prompt`, LogProbs of the prompts' tokens"
        )
    if wanted is not None:
        means = "LogProbs.from_sums(sums, lengths)" if wanted == "lengths" else "LogProbs(values=..., lengths=...)"
        raise ValueError(f"from_sums: {loss.name} needs {wanted}; call it with a Pair of {means}")


def _pair_of_sums(chosen: Tensor, rejected: Tensor, *names: str, like: Tensor | None = None) -> Pair:
    shape = (chosen if like is None else like).shape
    for name, sums in zip(names, (chosen, rejected), strict=True):
        if sums.ndim != 1 or sums.shape != shape:
            raise ValueError(f"{name} must have shape (B,), one sum per pair, as chosen has; got {tuple(sums.shape)}")
    lengths = torch.ones(len(chosen), dtype=torch.int64, device=chosen.device)  # never read: the loss needs none
    return Pair(LogProbs.from_sums(chosen, lengths), LogProbs.from_sums(rejected, lengths))


def seen_by(loss: Loss, policy: Any, reference: Any) -> tuple[Any, Any]:
    """Policy and reference as a loss reads them: all units where it holds likelihoods, else the units that were scored."""
    if not loss.holds_likelihoods:
        return policy, reference
    return everywhere(policy), everywhere(reference)


def everywhere(logps: Any) -> Any:
    """The sides of pairs, or completions, over all their units."""
    if logps is None:
        return None
    return Pair(*(side.everywhere() for side in logps)) if isinstance(logps, Pair) else logps.everywhere()


def check_pair(policy: Pair, reference: Pair | None = None) -> None:
    """Refuse sides that do not belong together, and say which."""
    if len(policy.chosen) != len(policy.rejected):
        raise ValueError(
            f"policy.chosen has {len(policy.chosen)} completions but policy.rejected has {len(policy.rejected)}; "
            "a pair needs one of each"
        )
    if reference is not None:
        check_same_completions("chosen", policy.chosen, reference.chosen)
        check_same_completions("rejected", policy.rejected, reference.rejected)


def check_same_completions(side: str, policy: LogProbs, reference: LogProbs | None) -> None:
    """Refuse a reference that scored other completions than the policy."""
    if reference is None:
        raise ValueError(f"reference log-probabilities of {side} are missing; this loss compares the policy with them")
    if len(policy) != len(reference):
        raise ValueError(
            f"{side}: policy has {len(policy)} completions but reference has {len(reference)}; "
            "both must score the same ones"
        )
    if policy.lengths.device.type != "cpu":  # where asking for the answer would wait for the device
        same = (policy.lengths == reference.lengths.to(policy.lengths.device)).all()
        torch._assert_async(same, f"{side}: policy and reference must score the same tokens")
    elif not torch.equal(policy.lengths, reference.lengths.to(policy.lengths.device)):
        first = int((policy.lengths != reference.lengths.to(policy.lengths.device)).nonzero()[0])
        raise ValueError(
            f"{side}: completion {first} has {int(policy.lengths[first])} counted units under the policy but "
            f"{int(reference.lengths[first])} under the reference; both must score the same tokens"
        )


def joined(prompt: LogProbs | None, completions: LogProbs) -> LogProbs:
    """Sums and lengths of completions together with their prompts.

    Raises:
        ValueError: the prompts are missing, or not as many as the completions.
    """
    if prompt is None or len(prompt) != len(completions):
        given = "none were given" if prompt is None else f"{len(prompt)} were given"
        raise ValueError(f"prompt: log-probabilities of {len(completions)} prompts are needed, but {given}")
    lengths = prompt.lengths.to(completions.lengths.device) + completions.lengths
    return LogProbs.from_sums(prompt.sum() + completions.sum(), lengths)


def check_column(name: str, column: Tensor | None, length: int) -> Tensor:
    """A per-example input, refused if it is missing or of the wrong shape."""
    if column is None:
        raise ValueError(f"{name} is missing; give one value per example, shape ({length},)")
    if column.shape != (length,):
        raise ValueError(f"{name} must have shape ({length},), one value per example, got {tuple(column.shape)}")
    return column


def require_rows(loss: Loss, result: LossResult, count: int) -> None:
    """Refuse a result without one loss for each row, as a loss of one's own may have taken the mean itself.

    Raises:
        ConfigError: naming the loss and both shapes.
    """
    if result.loss.shape != (count,):
        raise ConfigError(
            f"loss {loss.name!r}: its result must have one loss for each row, shape ({count},), got {tuple(result.loss.shape)}"
        )


def log_ratio(policy: LogProbs, reference: LogProbs | None, side: str = "completions") -> Tensor:
    """(B,) log pi(y|x) - log pi_ref(y|x), nats.

    Where both sides know their tokens the difference is taken token by token and then summed: two float32 sums of a
    long completion can agree in all but their last digits.
    """
    check_same_completions(side, policy, reference)
    assert reference is not None  # noqa: S101  (checked one line up; tells the type checker)
    if policy.values is not None and reference.values is not None:
        return policy.sum_of(at_least_float32(policy.values) - at_least_float32(reference.values))
    return policy.sum() - reference.sum()


def mean_log_ratio(policy: LogProbs, reference: LogProbs | None, side: str = "completions") -> Tensor:
    """(B,) the log-ratio per counted unit; refuses an empty completion."""
    total = log_ratio(policy, reference, side)
    return total / policy.nonempty_lengths().to(total.device)


def log_ratios(policy: Pair, reference: Pair | None) -> tuple[Tensor, Tensor]:
    """The log-ratios of both sides, each (B,) nats."""
    check_pair(policy)
    chosen, rejected = (None, None) if reference is None else reference
    return log_ratio(policy.chosen, chosen, "chosen"), log_ratio(policy.rejected, rejected, "rejected")


def mean_log_ratios(policy: Pair, reference: Pair | None) -> tuple[Tensor, Tensor]:
    """The log-ratios of both sides per counted unit, each (B,); refuses an empty completion."""
    check_pair(policy)
    chosen, rejected = (None, None) if reference is None else reference
    return mean_log_ratio(policy.chosen, chosen, "chosen"), mean_log_ratio(policy.rejected, rejected, "rejected")


def row_weights(weights: Tensor | None, like: Tensor) -> Tensor:
    """(B,) what rows count for, as numbers like those of the loss; 1 each where nothing is said.

    Raises:
        ValueError: of another shape than (B,), negative, or zero for every row.
    """
    if weights is None:
        return torch.ones_like(like.detach())
    weights = check_column("weights", weights, len(like)).to(like.detach())
    if not (bool((weights >= 0).all()) and bool((weights > 0).any())):
        raise ValueError("weights must be at least 0, and above 0 for one row or more")
    return weights


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """() the mean over rows, each counted as often as its weight says."""
    return (weights * values).sum() / weights.sum()


def batch_arguments(loss: Loss, weights: Tensor | None, keys: Tensor | None = None) -> dict[str, Any]:
    """What this loss is told of the rows of the whole batch, by the name of the keyword."""
    told: dict[str, Any] = {"weights": weights} if loss.couples_batch else {}
    return told | ({"keys": keys} if loss.takes_keys and keys is not None else {})


def negative_log_likelihood(logps: LogProbs, normalization: Normalization, weights: Tensor | None = None) -> Tensor:
    """(B,) terms whose weighted mean over the batch is the NLL under that normalisation.

    For `token` it is NLL_i * (sum of the weights w) / (sum_j w_j |y_j|), so this must then be formed over the whole
    batch.
    """
    if normalization == "sum":
        return -logps.sum()
    if normalization == "sequence":
        return -logps.mean()
    total = logps.sum()
    counts = row_weights(weights, total)
    tokens = (counts * logps.lengths.to(counts)).sum()
    if not float(tokens):
        raise ValueError("the batch has no counted unit, so its mean per token is undefined")
    return -total * (counts.sum() / tokens)
