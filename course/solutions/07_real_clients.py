"""Solutions to lesson 7. A function whose parameters all have defaults returns the answer; any other is the answer."""

import math


def units_of_training(train, new):
    return (new - train.mean(0)) / train.std(0, correction=0)


def half_life(volume=0.5, clearance=0.04):
    return math.log(2) * volume / clearance
