"""`exptilt convert`: the configuration of another tool as a commented recipe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from exptilt.converters.conversion import Conversion, convert_files
from exptilt.converters.recipe_text import nested, recipe_text
from exptilt.disk import write_whole
from exptilt.errors import ConfigError
from exptilt.settings.load import build
from exptilt.settings.recipe import Recipe
from exptilt.settings.yaml_source import Source
from exptilt.wording import counted


def convert(files: Sequence[Path], output: Path, processes: int | None = None) -> Conversion:
    """Write a recipe, and say what became of the keys.

    Args:
        files: configurations that belong together.
        output: the recipe to write; a file that is there is not replaced.
        processes: processes that training ran on there.

    Raises:
        ConfigError: a file cannot be read or is of no known tool, the recipe is there already, or a value cannot be used.
    """
    if output.exists():
        raise ConfigError(f"{output}: is there already; give another --output")
    conversion = convert_files(files, processes)
    build(Recipe, Source(label=", ".join(conversion.files), values=nested(conversion)))
    write_whole(output, recipe_text(conversion))
    counts = Counter(fate.outcome for fate in conversion.fates)
    print(
        f"{conversion.tool}: {counted(len(conversion.fates), 'key')}: {counts['used']} used, {counts['default']} as by default, "
        f"{counts['no effect']} without effect here, {counts['refused']} without counterpart"
    )
    for fate in (fate for fate in conversion.fates if fate.outcome == "refused"):
        print(f"  {fate.key}: {fate.says}")
    for remark in conversion.remarks:
        print(f"  {remark}")
    still = f"set {' and '.join(conversion.missing)}, then: " if conversion.missing else "next: "
    print(f"wrote {output}; {still}exptilt doctor {output} && exptilt train {output}")
    return conversion
