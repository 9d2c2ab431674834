"""Where measured numbers come from, so that those of different origin are never combined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from exptilt.sampling.sampling_law import SamplingLaw, require_plain, require_same


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Provenance:
    """The sampling law, the reference's identity and the prompts behind rewards and KLs.

    Example:
        >>> first = Provenance(law=SamplingLaw(max_new_tokens=8), reference="3f2a", prompts=["p1", "p2"])
        >>> other = Provenance(law=SamplingLaw(max_new_tokens=8), reference="99c0", prompts=["p1", "p2"])
        >>> first.require_match(other, "the frontier")
        Traceback (most recent call last):
        ValueError: the frontier compares against reference 3f2a, but the policy's KL was taken against 99c0
    """

    law: SamplingLaw
    """Must be the model's own law: nothing else has the KL that full log-probabilities give."""
    reference: str
    """Identity of the reference model, a hash of its weights for example."""
    prompts: Sequence[str] | Sequence[int]
    """(X,) one id for each prompt, in the order of the numbers."""

    def __post_init__(self) -> None:
        require_plain(self.law, "a KL or a frontier")

    def require_match(self, other: Provenance, what: str) -> None:
        """Refuse to combine numbers of another law, reference or list of prompts.

        Raises:
            ValueError: saying what differs.
        """
        require_same(self.law, other.law, what)
        if self.reference != other.reference:
            raise ValueError(
                f"{what} compares against reference {self.reference}, "
                f"but the policy's KL was taken against {other.reference}"
            )
        if list(self.prompts) != list(other.prompts):
            raise ValueError(
                f"{what} needs the same prompts in the same order: the frontier has {len(self.prompts)}, "
                f"the policy {len(other.prompts)}, and they differ"
            )
