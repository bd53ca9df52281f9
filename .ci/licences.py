"""Lists the licences of all run-time dependencies of the installed mosaicmem, direct and transitive.

    python .ci/licences.py [EXTRA ...]

exits with 1 if a licence is copyleft or unknown, or if the package lacks the licence text of a compiled-in library.
"""

import re
import sys
from importlib.metadata import Distribution, distribution

from packaging.requirements import Requirement

PERMISSIVE = re.compile(
    r"\b(0BSD|BSD|MIT|HPND|ISC|Apache|PSF|Python Software Foundation|Zlib|CC0|Unlicense|Historical Permission)\b",
    re.IGNORECASE,
)
COPYLEFT = re.compile(r"GPL|GNU|\bMPL|Mozilla|\bEUPL|\bCDDL|\bEPL|Eclipse|Affero|\bSSPL|copyleft", re.IGNORECASE)
COMPILED_IN = ("nanoflann", "pybind11")


# Indirect dependencies of viser under the MPL, whose copyleft covers their own files alone: they are used unmodified.
FILE_LEVEL = {"certifi", "tqdm"}
SILENT = {"openexr": "BSD-3-Clause"}  # packages whose metadata name no licence, and what their repositories say


def main() -> None:
    found = needed("mosaicmem", sys.argv[1:])
    refused = []
    for name, package in sorted(found.items()):
        licence = licence_of(package)
        print(f"{name:24} {package.version:16} {licence}")
        if not permits(licence) and name not in FILE_LEVEL:
            refused.append(name)
    carried = {file.name for file in distribution("mosaicmem").files or [] if "licenses" in file.parts}
    missing = {"LICENSE", *(f"{name}.txt" for name in COMPILED_IN)} - carried
    if missing:
        sys.exit(f"the installed package lacks licence texts: {', '.join(sorted(missing))}")
    if refused:
        sys.exit(f"copyleft or unknown licences: {', '.join(refused)}")


def needed(name: str, extras: list[str]) -> dict[str, Distribution]:
    """The dependencies of a package by name, without the package itself."""
    found: dict[str, Distribution] = {}
    waiting = [(name, tuple(extras))]
    seen = set()
    while waiting:
        item = waiting.pop()
        if item in seen:
            continue
        seen.add(item)
        package = distribution(item[0])
        found[normalised(item[0])] = package
        waiting += requirements(package, item[1])
    del found[normalised(name)]
    return found


def requirements(package: Distribution, extras: tuple[str, ...]) -> list[tuple[str, tuple[str, ...]]]:
    wanted = []
    for text in package.requires or []:
        requirement = Requirement(text)
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in (*extras, "")):
            wanted.append((requirement.name, tuple(sorted(requirement.extras))))
    return wanted


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def licence_of(package: Distribution) -> str:
    """From the package's metadata: the licence expression, else the classifiers, else the first line of the text."""
    metadata = package.metadata
    if metadata.get("License-Expression"):
        return metadata["License-Expression"]
    classifiers = [
        text.rpartition(" :: ")[2] for text in metadata.get_all("Classifier", []) if text.startswith("License ::")
    ]
    specific = [text for text in classifiers if text != "OSI Approved"]
    if specific:
        return " AND ".join(specific)
    return (metadata.get("License") or SILENT.get(normalised(metadata["Name"]), "unknown")).strip().splitlines()[0]


def permits(licence: str) -> bool:
    """Whether each part of "A AND B", or one of "A OR B", is a known licence and not copyleft."""
    parts = re.split(r"\s+AND\s+", re.sub(r"[()]", " ", licence))
    return all(any(_is_permissive(choice) for choice in re.split(r"\s+OR\s+", part)) for part in parts)


def _is_permissive(licence: str) -> bool:
    return bool(PERMISSIVE.search(licence)) and not COPYLEFT.search(licence)


if __name__ == "__main__":
    main()
