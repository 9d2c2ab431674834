"""The objective catalogue: every loss is a frozen, callable dataclass that sees log-probabilities only.

`AnyLoss` is the catalogue; a recipe's `loss:` names one of its members. This list is the only one: what a recipe is checked against
without torch (`settings/objectives.json`) and the page `docs/objectives.md` are generated from it by `make docs`.
"""

from __future__ import annotations

from exptilt.kinds import Kind as Kind
from exptilt.losses.all_pairs import AllPairsDPO as AllPairsDPO
from exptilt.losses.anchors import NLL as NLL
from exptilt.losses.anchors import CalAnchor as CalAnchor
from exptilt.losses.anchors import HingeAnchor as HingeAnchor
from exptilt.losses.anchors import LinearAnchor as LinearAnchor
from exptilt.losses.anchors import LogSumExpAnchor as LogSumExpAnchor
from exptilt.losses.anchors import MDPOAnchor as MDPOAnchor
from exptilt.losses.anchors import ReferenceHingeAnchor as ReferenceHingeAnchor
from exptilt.losses.aot import AOT as AOT
from exptilt.losses.apo import APODown as APODown
from exptilt.losses.apo import APOZero as APOZero
from exptilt.losses.apo import APOZeroUnpaired as APOZeroUnpaired
from exptilt.losses.arpo import ARPO as ARPO
from exptilt.losses.base import Loss as Loss
from exptilt.losses.base import Normalization as Normalization
from exptilt.losses.base import State as State
from exptilt.losses.bco import BCO as BCO
from exptilt.losses.bco import BCOUnpaired as BCOUnpaired
from exptilt.losses.bdpo import BDPO as BDPO
from exptilt.losses.beta_dpo import BetaDPO as BetaDPO
from exptilt.losses.bradley_terry import BradleyTerry as BradleyTerry
from exptilt.losses.cal_dpo import CalDPO as CalDPO
from exptilt.losses.cal_dpo import CalHingeDPO as CalHingeDPO
from exptilt.losses.chi_po import ChiPO as ChiPO
from exptilt.losses.cpo import CPO as CPO
from exptilt.losses.discopop import DiscoPOP as DiscoPOP
from exptilt.losses.distill import Distill as Distill
from exptilt.losses.dpo import DPO as DPO
from exptilt.losses.dpo import RobustDPO as RobustDPO
from exptilt.losses.dpop import DPOP as DPOP
from exptilt.losses.dr_dpo import DrDPO as DrDPO
from exptilt.losses.exo import EXO as EXO
from exptilt.losses.exo import EXOList as EXOList
from exptilt.losses.f_dpo import FDPO as FDPO
from exptilt.losses.grpo import GRPO as GRPO
from exptilt.losses.hinge import Hinge as Hinge
from exptilt.losses.ipo import IPO as IPO
from exptilt.losses.kto import KTO as KTO
from exptilt.losses.ld_dpo import LDDPO as LDDPO
from exptilt.losses.length_aware import RDPO as RDPO
from exptilt.losses.length_aware import LengthNormalizedDPO as LengthNormalizedDPO
from exptilt.losses.lipo import LiPO as LiPO
from exptilt.losses.mixture import MPO as MPO
from exptilt.losses.mixture import Mixture as Mixture
from exptilt.losses.mixture import Term as Term
from exptilt.losses.nca import NCA as NCA
from exptilt.losses.nca import InfoNCA as InfoNCA
from exptilt.losses.nca import NCAList as NCAList
from exptilt.losses.odpo import ODPO as ODPO
from exptilt.losses.orpo import ORPO as ORPO
from exptilt.losses.plackett_luce import PlackettLuce as PlackettLuce
from exptilt.losses.plackett_luce import PlackettLuceReward as PlackettLuceReward
from exptilt.losses.ppo import PPO as PPO
from exptilt.losses.rebel import REBEL as REBEL
from exptilt.losses.rloo import RLOO as RLOO
from exptilt.losses.rrhf import PRO as PRO
from exptilt.losses.rrhf import RRHF as RRHF
from exptilt.losses.sampo import SamPO as SamPO
from exptilt.losses.sft import SFT as SFT
from exptilt.losses.simpo import AlphaPO as AlphaPO
from exptilt.losses.simpo import SimPO as SimPO
from exptilt.losses.slic import SLiC as SLiC
from exptilt.losses.soft_labels import with_soft_labels as with_soft_labels
from exptilt.losses.sppo import SPPO as SPPO
from exptilt.losses.sppo import SPPOHard as SPPOHard
from exptilt.losses.tdpo import TDPO1 as TDPO1
from exptilt.losses.tdpo import TDPO2 as TDPO2
from exptilt.losses.tpo import TPO as TPO
from exptilt.losses.unlikelihood import Unlikelihood as Unlikelihood
from exptilt.losses.wpo import WPO as WPO
from exptilt.losses.xpo import XPO as XPO

# fmt: off
AnyLoss = (
    DPO | RobustDPO | IPO | Hinge | FDPO | EXO | NCA | BCO | SPPO | SPPOHard | CalDPO | CalHingeDPO | BDPO | DPOP
    | RDPO | LengthNormalizedDPO | LDDPO | SamPO | ODPO | TDPO1 | TDPO2 | BetaDPO | WPO | AOT | APOZero | APODown
    | DiscoPOP | XPO | REBEL | ChiPO | DrDPO
    | SimPO | AlphaPO | CPO | ARPO | ORPO | SLiC | Unlikelihood
    | NLL | HingeAnchor | ReferenceHingeAnchor | LogSumExpAnchor | LinearAnchor | CalAnchor | MDPOAnchor
    | Mixture | MPO
    | SFT | KTO | APOZeroUnpaired | BCOUnpaired
    | PlackettLuce | AllPairsDPO | InfoNCA | NCAList | EXOList | LiPO | RRHF | PRO | TPO
    | RLOO | GRPO | PPO | Distill
)
# fmt: on
"""Every objective a policy can be trained with."""

AnyRewardLoss = BradleyTerry | PlackettLuceReward
"""Every objective a reward model can be trained with."""
