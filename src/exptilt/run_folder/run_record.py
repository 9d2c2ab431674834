"""run.json: what is known of a run, and what it warned of."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field, model_validator

from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.record import FilePart, FileRecord


class Caution(FilePart):
    """A warning that a guard rail gave while a run trained."""

    step: int | None = None
    name: str = ""
    """Which danger, in one word."""
    message: str = ""
    advice: str = ""
    """A setting to change."""
    value: float | None = None
    limit: float | None = None
    alarm: bool = False
    """Whether the model must not be used as it is."""
    phase: str | None = None
    """`sft` if it was given in the supervised phase, whose steps are counted by themselves; None in the run's last phase."""

    @model_validator(mode="before")
    @classmethod
    def _older_keys(cls, given: Any) -> Any:
        """A warning of a file without formats may name itself `number` and its advice `fix`."""
        older = {"number": "name", "fix": "advice"}
        return {older.get(key, key): one for key, one in given.items()} if isinstance(given, dict) else given


class ReferenceIdentity(FilePart):
    """Which weights a run compares with."""

    identity: str | None = None
    """Fingerprint of the weights."""
    source: str | None = None
    """The same in words."""


class KeptWeights(FilePart):
    """The weights that `train.best` kept: these are the model, and these are measured."""

    step: int
    """0: the weights the run started from."""
    metric: str
    value: float


class ModelFacts(FilePart):
    """What is known of the measured model."""

    name: str | None = None
    parameters: int | None = None


class TokenBudget(FilePart):
    """What `batch.tokens=auto` chose, on which device, so that a run that goes on need not measure again."""

    tokens: int
    limit: str = ""
    """What keeps it from being larger: memory or speed."""
    bytes_per_token: int | None = None
    fixed_bytes: int | None = None
    free_bytes: int | None = None
    device: str | None = None
    processes: int | None = None


class SampledPolicy(FilePart):
    """What the samples of a policy say of it."""

    num_prompts: int | None = None
    num_samples: int | None = None
    """Of all prompts together."""
    reward: Estimate | None = None
    """Of the reward that labels; None where votes do."""
    kl: Estimate | None = None
    """KL(policy || the first model), nats per completion, by the mean log-ratio of its samples."""
    length: Estimate | None = None
    """Tokens, the end token included."""
    ended: Estimate | None = None
    """Share of samples that ended by themselves."""


class RoundRecord(FilePart):
    """One round of sampling, labelling and training."""

    number: int
    status: str = ""
    """sampled, waiting, labelled or trained."""
    prompts: str | None = None
    """Digest of the prompts it answers."""
    start: SampledPolicy = SampledPolicy()
    """The policy that it begins with, measured on the round's own samples."""
    num_comparisons: int | None = None
    """That a judge or people were asked about."""
    num_rows: int | None = None
    left_out: dict[str, int] = Field(default_factory=dict)
    """What is in no row, by reason."""
    run: str | None = None
    """Folder of its run, in the folder of all rounds."""


class RunRecord(FileRecord):
    """run.json."""

    name: str | None = None
    exptilt: str | None = None
    """The version that started the run."""
    started: str | None = None
    """Time in ISO 8601, UTC."""
    finished: str | None = None
    status: str | None = None
    """running, stopped, waiting, done, measured or failed."""
    reason: str | None = None
    """Why it failed or was stopped, or what it waits for."""
    seed: int | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    """By package."""
    hardware: str | None = None
    processes: int | None = None
    token_budget: TokenBudget | None = None
    reference: ReferenceIdentity | None = None
    warnings: tuple[Caution, ...] = ()
    steps: int | None = None
    kept: KeptWeights | None = None
    """None: the weights of the last step."""
    seconds: float | None = None
    """Spent in training, over all starts."""
    model: ModelFacts = ModelFacts()
    command: str | None = None
    """The command that makes these numbers again."""
    rounds: tuple[RoundRecord, ...] = ()
    """Of a recipe with rounds, in order; each has a run folder of its own."""
    after_rounds: SampledPolicy | None = None
    """The policy that the last round trained."""

    @property
    def alarms(self) -> tuple[Caution, ...]:
        """Alarms that hold for the model: none that came after the step whose weights were kept."""
        last = self.kept.step if self.kept else math.inf
        return tuple(
            caution
            for caution in self.warnings
            if caution.alarm and (caution.phase is not None or (caution.step or 0) <= last)
        )

    def warnings_with_phase(self, name: str, phase: RunRecord) -> tuple[Caution, ...]:
        """The warnings of a run and, before them, those of an earlier phase of it, which has a record of its own.

        An alarm of a phase that does not hold for the phase's model is a warning like any other.
        """
        earlier = (
            caution.updated(phase=name, **({} if caution in phase.alarms or not caution.alarm else {"alarm": False}))
            for caution in phase.warnings
        )
        return (*earlier, *(caution for caution in self.warnings if caution.phase != name))
