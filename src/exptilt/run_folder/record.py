"""The base of every record of a run folder: strict when it is written, lenient when it is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

FORMAT = 1
"""The format of the files this version writes. It rises when a key changes its name or its meaning."""


class FilePart(BaseModel):
    """A part of a file: frozen, with checked keys and types.

    Code that builds a record gives keyword arguments, and an unknown key, a wrong type (a list for a tuple, text for a
    number) or a number that is not finite is refused. `from_dict` reads what another version wrote: types are converted
    where that loses nothing, a missing key takes its default, an unknown key is kept.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def from_dict(cls, given: Any) -> Self:
        """The record that a mapping of plain values describes.

        Raises:
            pydantic.ValidationError: a value is of another kind altogether.
        """
        return cls.model_validate(given, strict=False, extra="allow")

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, in the order of the fields: what was given, not the defaults."""
        return self.model_dump(mode="json", exclude_unset=True)

    def updated(self, **entries: Any) -> Self:
        """The record with other values, checked as strictly as when it is made."""
        checked = type(self)(**self.given() | entries)
        return self.model_copy(update={name: getattr(checked, name) for name in entries})

    def given(self) -> dict[str, Any]:
        """The fields that were given, by name; their values are records, not plain values."""
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}

    def known(self) -> dict[str, Any]:
        """Plain values of what is not None, defaults included; for report.json."""
        return self.model_dump(mode="json", exclude_none=True, exclude={"format"})

    @model_serializer(mode="wrap")
    def _with_unknown_keys(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        return content | (self.model_extra or {})


class FileRecord(FilePart):
    """A whole JSON file, which says in which format it is."""

    format: int = FORMAT
    """0: written before formats were numbered."""

    @classmethod
    def from_dict(cls, given: Any) -> Self:
        """The record of a file's content; see `FilePart.from_dict`."""
        return super().from_dict({"format": 0} | dict(given) if isinstance(given, Mapping) else given)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the format first."""
        return {"format": self.format} | super().as_dict()

    def updated(self, **entries: Any) -> Self:
        """See `FilePart.updated`; the record is then of the present format."""
        return super().updated(**entries | {"format": FORMAT})
