"""Hyperparameters that several algorithms have, declared once."""

from __future__ import annotations

from typing import Any

from fmlab.declare import hyper


def local_steps() -> Any:
    return hyper(5, symbol="K", low=1, high=100, whole=True, text="gradient steps a client takes a round")


def inner_steps() -> Any:
    return hyper(1, symbol="K", low=1, high=100, whole=True, text="inner steps on the support set")


def step_size(symbol: str, text: str) -> Any:
    """Of training. None, the default, is filled from the recorded search before anything runs."""
    return _step_size(symbol, text, "training")


def adaptation(symbol: str, text: str) -> Any:
    """Of adaptation to an unseen client, which takes no training to choose. None: ``validated`` around the recorded
    one, so that it suits the clients that are there."""
    return _step_size(symbol, text, "adaptation")


def _step_size(symbol: str, text: str, of: str) -> Any:
    return hyper(None, symbol=symbol, low=0.0, high=10.0, log=True, optional=True, step_size=of, text=text)


def batch_size(text: str = "examples a local step; None takes all the client has") -> Any:
    return hyper(None, symbol="B", low=1, high=10**6, whole=True, optional=True, sweepable=False, text=text)
