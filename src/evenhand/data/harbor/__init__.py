"""The built-in data: support tickets of the invented company Harbor, judged by five annotators, flaws included."""

from evenhand.data.harbor.flaws import Flaws
from evenhand.data.harbor.generate import harbor, write_harbor
from evenhand.data.harbor.truth import Harbor, Planted, Truth

__all__ = ["Flaws", "Harbor", "Planted", "Truth", "harbor", "write_harbor"]
