"""Trunk states: what the shared layers computed for texts, kept so that they are computed once."""

from runtime.states.trunk_states import TrunkStates, load_states

__all__ = ["TrunkStates", "load_states"]
