"""Tiny models of random weights, as they are served: of a text, of documents that are lines, and of tokens."""

import torch

from scriven.server.app import STREAMED, make_app
from scriven.server.limits import LIMITS, Limits
from scriven.server.security import Guard, policy
from scriven.settings import Settings
from scriven.settings_values import validate
from scriven.trained_model import Model
from scriven.vocabulary import Vocabulary
from small_model import Text, favour, mixture, predictor_of

LETTERS = "\n abcde,.ß"


def text_model() -> Model:
    """A model of a text."""
    settings: Settings = validate({"model": {"width": 8}})
    return Model(predictor_of(Vocabulary.of(LETTERS)), settings, step=3)


def mixed_model() -> Model:
    """The same model, mixed with the counts of a training text."""
    alone = text_model()
    text = Text(alone.vocabulary.encode("a bad cab, ed\nhe had a dab. " * 40))
    return Model(mixture(alone.predictor, text), alone.settings, step=3)


def names_model() -> Model:
    """A model of documents, which end soon."""
    settings: Settings = validate({"model": {"width": 8}, "corpus": {"documents": "lines"}})
    predictor = predictor_of(Vocabulary.of("abc", "\n"))
    favour(predictor, predictor.vocabulary.boundary, 0.5)
    return Model(predictor, settings, step=3)


def tokens_model() -> Model:
    """A model of tokens."""
    settings: Settings = validate({"model": {"width": 8}, "corpus": {"unit": "token"}})
    return Model(predictor_of(Vocabulary.of_tokens(["\n", "A", "B", "C", "D"])), settings, step=3)


def guarded_app(models: dict[str, Model], limits: Limits = LIMITS, token: str | None = None) -> Guard:
    """Models behind the guard that `scriven serve` puts before them."""
    torch.set_num_threads(1)
    return Guard(make_app(models, limits), policy("127.0.0.1", token=token, limits=limits, streamed=STREAMED))
