"""Conformance kits for parts of your own: losses, and rewards.

from exptilt.testing import require_conforming, require_conforming_reward
"""

from exptilt.testing.check_finding import CheckFinding as CheckFinding
from exptilt.testing.loss_conformance import check_loss as check_loss
from exptilt.testing.loss_conformance import require_conforming as require_conforming
from exptilt.testing.reward_conformance import check_reward as check_reward
from exptilt.testing.reward_conformance import require_conforming_reward as require_conforming_reward
