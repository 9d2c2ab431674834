"""Parts of your own: wherever a recipe takes a name it also takes `import: package.module:Name`, with its settings beside it.

    loss: {import: my_package.my_module:MyLoss, alpha: 0.3}

One mechanism for every kind of part. The name is imported (from the current folder too), a class is called with the settings, and
anything else is taken as it is. What is kept, in config.yaml and wherever a recipe is compared, is the import path, the settings and a
digest of the source file, so a run is never gone on with under another formula unnoticed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import inspect
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticKnownError, core_schema

from exptilt.errors import ConfigError
from exptilt.settings.declaration import as_dict
from exptilt.wording import in_one_line

IMPORT, SOURCE = "import", "source"
"""Keys of a recipe that name a part of your own: what to import, and the digest of its source when the recipe was written."""


@dataclass(frozen=True, kw_only=True)
class OwnPart:
    """A part by its import path, with its settings; `make` makes it.

    Example:
        >>> part = OwnPart.read({"import": "fractions:Fraction", "numerator": 3})
        >>> part.make(), part.setting("numerator"), part.title
        (Fraction(3, 1), 3, 'Fraction')
    """

    path: str
    """`package.module:Name`."""
    settings: tuple[tuple[str, Any], ...] = ()
    """What a class is called with, all of it where the class is a dataclass."""
    source: str | None = None
    """Digest of the source file when the recipe was written; None where it has no file."""

    @classmethod
    def read(cls, written: Mapping[str, Any]) -> Self:
        """What stands in a recipe: `import`, and settings beside it.

        Raises:
            ValueError: it cannot be imported, or a setting is unknown or wrong.
        """
        given = {str(key): value for key, value in written.items() if key not in (IMPORT, SOURCE)}
        path = written[IMPORT]
        target = import_object(path, IMPORT)
        settings = _settings_of(target, given, path)
        source = written.get(SOURCE)
        return cls(path=path, settings=tuple(settings.items()), source=source or source_digest(target))

    @classmethod
    def of(cls, part: Any) -> Self:
        """The import path and settings of an object of yours, a dataclass.

        Raises:
            ValueError: it is no dataclass, or nobody else could import its class.
        """
        target = type(part)
        if not dataclasses.is_dataclass(target):
            raise ValueError(f"{target.__name__} is no dataclass, so a recipe cannot keep its settings")
        if "<locals>" in target.__qualname__ or "." in target.__qualname__:
            raise ValueError(
                f"{target.__name__} is made inside a function or class; move it to the top of a module, so that a run can be "
                "read again"
            )
        settings = {one.name: getattr(part, one.name) for one in dataclasses.fields(part) if one.init}
        try:
            json.dumps(as_dict(settings))
        except TypeError as error:
            raise ValueError(f"{target.__name__} has a setting that a recipe cannot hold: {error}") from None
        path = f"{target.__module__}:{target.__qualname__}"
        return cls(path=path, settings=tuple(settings.items()), source=source_digest(target))

    def make(self) -> Any:
        """A new object of it; what is no class is given as it is."""
        target = import_object(self.path, IMPORT)
        return target(**dict(self.settings)) if inspect.isclass(target) else target

    def setting(self, name: str, default: Any = None) -> Any:
        """One setting by its name."""
        return dict(self.settings).get(name, default)

    @property
    def title(self) -> str:
        """What it is called: the name behind the colon."""
        return self.path.partition(":")[2]

    def written(self) -> dict[str, Any]:
        """As it stands in a recipe."""
        digest = {} if self.source is None else {SOURCE: self.source}
        return {IMPORT: self.path, **digest, **{name: as_dict(value) for name, value in self.settings}}

    def require_unchanged(self, key: str) -> None:
        """Refuse source that is not what the recipe was written with.

        Raises:
            ConfigError: naming the key to set.
        """
        now = source_digest(import_object(self.path, IMPORT))
        if now != self.source:
            raise ConfigError(
                f"{key}: the source of {self.path} has changed since this recipe was written ({self.source} then, {now} "
                f"now); take the old source back, or remove the key `source` ({key}.source=none) to use it as it is now"
            )


@dataclass(frozen=True)
class OwnPartOf:
    """Marks a settings field that holds a part of your own; pydantic asks it what is allowed."""

    what: str
    """What the part is, for messages: callback."""
    methods: tuple[str, ...]
    """Names a part must have."""

    def choose(self, written: Any) -> OwnPart:
        """Read what stands in a recipe, or take an object of Python code."""
        if isinstance(written, OwnPart):
            return written
        if not isinstance(written, Mapping):
            if isinstance(written, str | int | float | list | tuple) or written is None:
                raise PydanticKnownError("dataclass_type", {"class_name": self.what})
            written = OwnPart.of(written).written()
        if IMPORT not in written:
            raise ValueError(f"import is missing: a {self.what} of your own is named by import: package.module:Name")
        part = OwnPart.read(written)
        target = import_object(part.path, IMPORT)
        missing = [name for name in self.methods if not hasattr(target, name)]
        if missing:
            raise ValueError(f"import {part.path}: is no {self.what}; it has no {missing[0]}")
        return part

    def settings_class(self, written: Any) -> type[Any] | None:
        """The class of what stands in a recipe, where its fields are known."""
        return dataclass_named(written)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.choose, serialization=core_schema.plain_serializer_function_ser_schema(as_dict)
        )

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return own_schema(self.what)


def own_schema(what: str) -> dict[str, Any]:
    """JSON Schema of a part of your own; which settings it takes is known only once it is imported."""
    return {
        "type": "object",
        "description": f"A {what} of your own; its settings stand beside `import`.",
        "required": [IMPORT],
        "properties": {
            IMPORT: {"type": "string", "pattern": "^[^:]+:[^:]+$", "description": "package.module:Name."},
            SOURCE: {"type": ["string", "null"], "description": "Digest of its source; written, not for you to set."},
        },
    }


def dataclass_named(written: Any) -> type[Any] | None:
    """The dataclass that `import` names; None where there is none, for whatever reason."""
    try:
        target = import_object(written[IMPORT], IMPORT) if is_own(written) else None
    except ValueError:
        return None
    return target if inspect.isclass(target) and dataclasses.is_dataclass(target) else None


def is_own(written: Any) -> bool:
    """Whether what stands in a recipe names a part of your own."""
    return isinstance(written, Mapping) and IMPORT in written


def import_object(path: Any, key: str) -> Any:
    """The object that `package.module:Name` names; modules of the current folder are found, too.

    Raises:
        ValueError: beginning with the key and saying what is wrong.

    Example:
        >>> import_object("operator:add", "import")("a", "b")
        'ab'
    """
    module, _, name = path.partition(":") if isinstance(path, str) else ("", "", "")
    if not module or not name:
        raise ValueError(f"{key} must be `package.module:Name`, got {path!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{key} {path}: no module named {error.name!r}, neither installed nor in the current folder {os.getcwd()}"
        ) from None
    except AttributeError:
        raise ValueError(f"{key} {path}: module {module!r} has no {name!r}") from None
    except Exception as error:  # whatever the module does when it is imported
        raise ValueError(f"{key} {path} cannot be imported: {type(error).__name__}: {in_one_line(error)}") from None


def source_digest(target: Any) -> str | None:
    """A digest of the file that defines a class or function; of an object that of its class; None without a file.

    Example:
        >>> source_digest(source_digest) == source_digest(OwnPart), source_digest(len)
        (True, None)
    """
    defined = target if inspect.isclass(target) or inspect.isroutine(target) else type(target)
    try:
        content = Path(inspect.getfile(defined)).read_bytes()
    except (TypeError, OSError):
        return None
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _settings_of(target: Any, given: dict[str, Any], path: str) -> dict[str, Any]:
    """Checked settings: of a dataclass all its fields, read as a recipe's; of another class those given."""
    if not inspect.isclass(target):
        if given:
            raise ValueError(f"import {path}: is no class, so it takes no settings; got {', '.join(given)}")
        return {}
    _require_known(target, given, path)
    if not dataclasses.is_dataclass(target):
        return given
    reserved = {one.name for one in dataclasses.fields(target)} & {IMPORT, SOURCE}
    if reserved:
        raise ValueError(
            f"import {path}: a field must not be called {reserved.pop()!r}, which is a key of its own here"
        )
    try:
        made: Any = TypeAdapter(target).validate_python(given)
    except PydanticUserError:  # a field of a type that only Python can give
        made = target(**given)
    return {one.name: getattr(made, one.name) for one in dataclasses.fields(target) if one.init}


def _require_known(target: type, given: Mapping[str, Any], path: str) -> None:
    """Refuse settings that the class does not take and name those it lacks."""
    try:
        parameters = inspect.signature(target).parameters
        inspect.signature(target).bind(**given)
    except ValueError:  # a class written in C may not say
        return
    except TypeError as error:
        unknown = [name for name in given if name not in parameters]
        if not unknown:
            raise ValueError(f"import {path}: {error}") from None
        problems: Any = [{"type": "extra_forbidden", "loc": (name,), "input": given[name]} for name in unknown]
        raise ValidationError.from_exception_data(target.__name__, problems) from None
