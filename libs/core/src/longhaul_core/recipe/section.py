"""The base of every section of a recipe."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen part of a recipe. Unknown keys are errors; the recipe reader names the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
