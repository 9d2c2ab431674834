"""`exptilt agree`: whose votes are compared."""

import json

from exptilt.evaluation.intervals import Resampling
from exptilt.evaluation.result import plain
from exptilt.preferences import Comparison
from exptilt.verbs.agree import agree
from exptilt.votes.vote_records import ADJUDICATOR, Rater, Vote
from exptilt.votes.vote_store import VoteStore


def test_who_settles_a_dispute_is_no_further_person(tmp_path, capsys):
    people = [Rater("person", "anna"), Rater("person", "ben"), Rater("person", "olga", ADJUDICATOR)]
    with VoteStore(tmp_path / "votes.db") as store:
        for number in range(12):
            question = Comparison(f"p{number}", ("a", "b"))
            for rater in people:
                outcome = "first" if (number + len(rater.name)) % 3 else "second"
                nonce = f"{number} {rater.name}"
                store.add(
                    question, Vote(comparison=question.id, rater=rater, order=(0, 1), outcome=outcome, nonce=nonce)
                )
    found = agree([str(tmp_path / "votes.db")], resampling=Resampling(num_resamples=100))
    printed = capsys.readouterr().out
    assert "anna" in printed
    assert "olga" not in printed + json.dumps(plain(found))
