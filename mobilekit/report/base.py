"""What every report is made of."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["Frozen"]


class Frozen(BaseModel):
    """Data without unknown fields. JSON has no infinities: as strings they survive a round trip. What is written has
    every field, and its schema says so."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", ser_json_inf_nan="strings", json_schema_serialization_defaults_required=True
    )
