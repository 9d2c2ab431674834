"""Sixty right answers and completions, and what a person says of each pair."""

from __future__ import annotations

import pytest

from exptilt.preferences import Answer
from exptilt.rewards.verifier import Verifier
from exptilt.settings.reward_settings import VerifierConfig

pytest.importorskip("math_verify", reason="the extra `verify` is not installed")

# right answer, completion, whether it is right
TABLE = [
    # whole numbers
    ("18", "She makes $18 every day.", True),
    ("18", "The answer is 18.", True),
    ("18", "The answer is 19.", False),
    ("18", "First 18, then 20. The answer is 20.", False),
    ("-4", "So x = -4", True),
    ("-4", "So x = 4", False),
    ("1200", "In all 1,200", True),
    ("1200", "In all 1200.0", True),
    ("0", "Nothing is left: 0", True),
    ("1000000", "$10^6$", True),
    # fractions and decimals
    ("1/2", "0.5", True),
    ("0.5", r"$\frac{1}{2}$", True),
    (r"\frac{1}{2}", "1/2", True),
    (r"\frac{1}{2}", r"\dfrac{2}{4}", True),
    (r"\frac{1}{2}", r"\frac{1}{3}", False),
    ("0.333", r"$\frac{1}{3}$", False),
    ("2.50", "2.5", True),
    ("2.5", "2.51", False),
    (r"\frac{7}{3}", r"$\boxed{\frac{7}{3}}$", True),
    (r"-\frac{7}{3}", r"$\boxed{\frac{7}{-3}}$", True),
    # roots and powers
    (r"\sqrt{8}", r"$2\sqrt{2}$", True),
    (r"\sqrt{8}", r"$\sqrt{2}$", False),
    (r"2^{10}", "1024", True),
    (r"\sqrt{2}/2", r"$\frac{1}{\sqrt{2}}$", True),
    (r"3\sqrt{3}", r"$\boxed{\sqrt{27}}$", True),
    (r"e^2", r"$e \cdot e$", True),
    (r"\pi", r"$3.14$", False),
    (r"2\pi", r"The area is $2\pi$.", True),
    (r"2\pi", r"The area is $\pi^2$.", False),
    (r"10\%", r"$\boxed{10\%}$", True),
    # algebra
    ("$x+1$", "$1+x$", True),
    ("$(x+1)^2$", "$x^2+2x+1$", True),
    ("$(x+1)^2$", "$x^2+1$", False),
    ("$x^2-1$", "$(x-1)(x+1)$", True),
    ("$2x$", "$x+x$", True),
    ("$x=3$", "$3$", True),
    ("$x=3$", "$x=4$", False),
    ("$3$", "$x=3$", True),
    (r"$\sin^2 x+\cos^2 x$", "$1$", True),
    (r"$\frac{x}{y}$", r"$\frac{y}{x}$", False),
    # pairs, sets and intervals
    ("$(1, 2)$", "$(1,2)$", True),
    ("$(1, 2)$", "$(2, 1)$", False),
    (r"$\{1, 2, 3\}$", r"$\{3, 2, 1\}$", True),
    (r"$\{1, 2\}$", r"$\{1, 3\}$", False),
    ("$[0, 1]$", "$[0, 1]$", True),
    ("$[0, 1)$", "$[0, 1]$", False),
    (r"$(-\infty, 3]$", r"$(-\infty,3]$", True),
    (r"$(0,1)\cup(2,3)$", r"$(2,3)\cup(0,1)$", True),
    ("$x > 3$", "$x > 3$", True),
    ("$x > 3$", "$x < 3$", False),
    # matrices and vectors
    (r"$\begin{pmatrix}1\\2\end{pmatrix}$", r"$\begin{pmatrix}1\\2\end{pmatrix}$", True),
    (r"$\begin{pmatrix}1\\2\end{pmatrix}$", r"$\begin{pmatrix}2\\1\end{pmatrix}$", False),
    (r"$\begin{pmatrix}1/2\\2\end{pmatrix}$", r"$\begin{pmatrix}0.5\\2\end{pmatrix}$", True),
    # form of the completion
    ("7", r"Long thought. Therefore, the final answer is: $\boxed{7}$. I hope it is correct.", True),
    ("7", r"$\boxed{6}$ no, wait: $\boxed{7}$", True),
    ("7", r"$\boxed{7}$ and then some words about 9", True),
    ("7", "I do not know.", False),
    ("7", "", False),
    ("7 apples", "7", True),
    (r"$30^\circ$", "30 degrees", True),
]


def test_the_verifier_says_of_sixty_pairs_what_a_person_says():
    verifier = Verifier(VerifierConfig(check="math", timeout=30, workers=2))
    answers = [Answer(prompt="", text=text, columns={"answer": gold}) for gold, text, _ in TABLE]
    verdicts = verifier(answers).tolist()
    verifier.close()
    wrong = [
        (gold, text, verdict) for (gold, text, right), verdict in zip(TABLE, verdicts, strict=True) if verdict != right
    ]
    assert wrong == []
    assert len(TABLE) == 60
