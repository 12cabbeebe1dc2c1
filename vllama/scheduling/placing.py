"""A place for an adapter on its base model's engine."""

from vllama.errors import EngineError
from vllama.models.model import Model
from vllama.scheduling.resident import Resident, rank_of


def place(resident: Resident, model: Model, *, waited: bool) -> EngineError | None:
    """Have the model's adapter loaded into the resident's engine, or see to it that it can be; or say why it never can.

    waited: whether somebody waits for it, for whom another has to make place.
    """
    assert resident.engine is not None
    limits, shelf, name = resident.engine.adapters, resident.shelf, model.engine_name
    if limits is None or shelf is None or limits.rank < rank_of(model):
        return _outgrow(resident, model)
    if shelf.has(name):
        return None  # there, or on its way, or about to make place
    if not shelf.full:
        shelf.put_on(model)
    elif waited:
        return _make_place(resident, model)
    return None


def _make_place(resident: Resident, model: Model) -> EngineError | None:
    assert resident.shelf is not None
    rival, used = resident.rival()
    if used:
        resident.shelf.closing = rival
    elif rival is not None:
        resident.drop_adapter(rival)
        resident.shelf.put_on(model, instead_of=rival)
    elif not resident.shelf.busy:
        return EngineError(
            f"{model.name.short} cannot be loaded: all adapters that its base model's engine holds are pinned",
            "pin fewer adapters, or allow more with --max-loras",
        )
    return None


def _outgrow(resident: Resident, model: Model) -> EngineError | None:
    """An engine that was started for such an adapter and still does not take it never will."""
    assert resident.engine is not None
    if resident.rank < rank_of(model):
        resident.outgrown = True
        return None
    limits = resident.engine.adapters
    takes = f"only adapters of rank {limits.rank} or less" if limits else "no adapters"
    return EngineError(
        f"{model.name.short}, of rank {rank_of(model)}, cannot be loaded: its base model's engine takes {takes}",
        ("allow more with --max-lora-rank, or " if limits else "") + f"run `vllama merge {model.name.short}`",
    )
