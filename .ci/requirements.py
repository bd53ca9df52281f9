"""Prints what pyproject.toml requires.

    pip install $(python .ci/requirements.py build)         what builds the package
    pip install $(python .ci/requirements.py lowest test)   the lowest versions of its dependencies, those of extras too

The second takes the newest versions of what the dependencies themselves require.
"""

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

REQUIREMENT = re.compile(r"(?P<name>[\w.-]+(\[[\w,-]+\])?)\s*>=\s*(?P<lowest>[\w.]+)(\s*,[^;]*)?(;.*)?")
USE = "expected: requirements.py build | lowest [EXTRA ...]"


def main(arguments: list[str]) -> None:
    declared = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
    if arguments == ["build"]:
        print("\n".join(requirement.replace(" ", "") for requirement in declared["build-system"]["requires"]))
    elif arguments[:1] == ["lowest"]:
        print("\n".join(lowest(declared["project"], arguments[1:])))
    else:
        sys.exit(USE)


def lowest(project: dict, extras: list[str]) -> list[str]:
    requirements = list(project["dependencies"])
    for extra in extras:
        requirements += project["optional-dependencies"][extra]
    found = []
    for requirement in requirements:
        match = REQUIREMENT.fullmatch(requirement)
        if not match:
            sys.exit(f"pyproject.toml: expected a lowest version in {requirement!r}: name>=version")
        found.append(f"{match['name']}=={match['lowest']}")
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
