"""The objective catalogue: every loss is a frozen, callable dataclass that sees log-probabilities only.

`AnyLoss` is the catalogue; a recipe's `loss:` is one of its members, told apart by `name`. There is no registry.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Discriminator

from exptilt.kinds import Kind
from exptilt.losses.anchors import NLL, CalAnchor, HingeAnchor, LinearAnchor, LogSumExpAnchor, ReferenceHingeAnchor
from exptilt.losses.aot import AOT
from exptilt.losses.apo import APODown, APOZero, APOZeroUnpaired
from exptilt.losses.base import Loss, Normalization, State
from exptilt.losses.bco import BCO, BCOUnpaired
from exptilt.losses.bdpo import BDPO
from exptilt.losses.beta_dpo import BetaDPO
from exptilt.losses.bradley_terry import BradleyTerry
from exptilt.losses.cal_dpo import CalDPO, CalHingeDPO
from exptilt.losses.cpo import CPO
from exptilt.losses.discopop import DiscoPOP
from exptilt.losses.dpo import DPO, RobustDPO
from exptilt.losses.dpop import DPOP
from exptilt.losses.exo import EXO, EXOList
from exptilt.losses.f_dpo import FDPO
from exptilt.losses.hinge import Hinge
from exptilt.losses.ipo import IPO
from exptilt.losses.kto import KTO
from exptilt.losses.ld_dpo import LDDPO
from exptilt.losses.length_aware import RDPO, LengthNormalizedDPO
from exptilt.losses.lipo import LiPO
from exptilt.losses.mixture import MPO, Mixture, Pairwise, PairwiseLoss, Term
from exptilt.losses.nca import NCA, InfoNCA, NCAList
from exptilt.losses.odpo import ODPO
from exptilt.losses.orpo import ORPO
from exptilt.losses.plackett_luce import PlackettLuce, PlackettLuceReward
from exptilt.losses.rrhf import PRO, RRHF
from exptilt.losses.sampo import SamPO
from exptilt.losses.sft import SFT
from exptilt.losses.simpo import AlphaPO, SimPO
from exptilt.losses.slic import SLiC
from exptilt.losses.soft_labels import with_soft_labels
from exptilt.losses.sppo import SPPO, SPPOHard
from exptilt.losses.tdpo import TDPO1, TDPO2
from exptilt.losses.unlikelihood import Unlikelihood
from exptilt.losses.wpo import WPO
from exptilt.losses.xpo import XPO

# fmt: off
AnyLoss = Annotated[
    Pairwise | Mixture | MPO
    | SFT | KTO | APOZeroUnpaired | BCOUnpaired
    | PlackettLuce | InfoNCA | NCAList | EXOList | LiPO | RRHF | PRO,
    Discriminator("name"),
]
# fmt: on
"""Every objective a policy can be trained with."""

AnyRewardLoss = Annotated[BradleyTerry | PlackettLuceReward, Discriminator("name")]
"""Every objective a reward model can be trained with."""

__all__ = [
    "AOT",
    "BCO",
    "BDPO",
    "CPO",
    "DPO",
    "DPOP",
    "EXO",
    "FDPO",
    "IPO",
    "KTO",
    "LDDPO",
    "MPO",
    "NCA",
    "NLL",
    "ODPO",
    "ORPO",
    "PRO",
    "RDPO",
    "RRHF",
    "SFT",
    "SPPO",
    "TDPO1",
    "TDPO2",
    "WPO",
    "XPO",
    "APODown",
    "APOZero",
    "APOZeroUnpaired",
    "AlphaPO",
    "AnyLoss",
    "AnyRewardLoss",
    "BCOUnpaired",
    "BetaDPO",
    "BradleyTerry",
    "CalAnchor",
    "CalDPO",
    "CalHingeDPO",
    "DiscoPOP",
    "EXOList",
    "Hinge",
    "HingeAnchor",
    "InfoNCA",
    "Kind",
    "LengthNormalizedDPO",
    "LiPO",
    "LinearAnchor",
    "LogSumExpAnchor",
    "Loss",
    "Mixture",
    "NCAList",
    "Normalization",
    "PairwiseLoss",
    "PlackettLuce",
    "PlackettLuceReward",
    "ReferenceHingeAnchor",
    "RobustDPO",
    "SLiC",
    "SPPOHard",
    "SamPO",
    "SimPO",
    "State",
    "Term",
    "Unlikelihood",
    "with_soft_labels",
]
