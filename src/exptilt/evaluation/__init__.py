"""How good is it: every number with an interval that takes the prompt as the unit.

intervals      Estimate, the prompt bootstrap, paired differences, Wilson, what an evaluation can detect
accuracy       preference accuracy, AUC, by length            scores        log-ratios and likelihoods of pairs
calibration    is sigmoid(margin) a probability
kl             sequence-level KL of a policy's samples
frontier       the optimum of reward against KL from samples of the reference, and where a policy stands
               (tilting: the weights, binary rewards; curve: reading it; position: fractions; provenance: what may be compared)
proxy          predicted over-optimisation of a proxy reward  best_of_n     best-of-n from one pool
length         length in data, in samples, in the reward      displacement  where chosen log-probabilities went
ches           which pairs are likely to displace             panel         results as plain values
"""
